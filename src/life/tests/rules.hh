// What must hold for every step of a connection, whatever its state and the event: used by the test of all states and
// by the fuzz target.
#pragma once

#include "life/connection.hh"

namespace vmsgr::life {

// The rule that this step breaks; null for none.
inline const char* broken_rule(const connection& before, event e, const connection& after, const actions& todo) {
    const bool changed = !(before == after);
    const auto restored = connection::restore(after.save());
    const bool far_let_go = after.last().has(action::reset_far) + after.last().has(action::close_far) +
                                after.last().has(action::release_far) == 1;
    const struct {
        bool broken;
        const char* text;
    } rules[] = {
        {after.at < before.at, "a phase comes back"},
        {after.out < before.out || after.in < before.in, "a direction opens again"},
        {before.program != side::held && after.program != before.program, "the program ends twice"},
        {before.over() && !after.over(), "over is not final"},
        {before.over() && todo.bits != 0, "something is done after the end"},
        {before.over() && changed && (e != event::recalled || !after.given_back), "the end changes its mind"},
        {before.given_back && (changed || todo.bits != 0), "a socket that was given back is acted on"},
        {todo.has(action::finish) != (after.over() && !before.over()), "finish does not come once, with the end"},
        {todo.has(action::fin_program) != (before.in == way::open && after.in == way::fin),
         "the end of file is not told once"},
        {todo.has(action::fin_program) && (before.gone() || before.far == side::killed),
         "an end of file that is none, or for nobody"},
        {todo.has(action::shut_far) != (before.out == way::fin && after.out == way::ended),
         "the far side does not get one end of file after the last byte"},
        {before.at == phase::connecting && after.at == phase::closing, "it closes before it was made"},
        {after.out != before.out && after.out == way::ended && !before.last_bytes(),
         "all is sent, but more may follow"},
        {todo.has(action::shut_far) && e != event::all_sent, "an end of file before the last byte"},
        {(todo.has(action::reset_program) || todo.has(action::give_back)) != (after.error != before.error),
         "an error is told that is not kept, or the other way round"},
        {after.error != before.error && (before.error != 0 || todo.error != after.error || after.gone()),
         "an error is told twice, wrongly, or to nobody"},
        {todo.has(action::give_back) && !after.given_back, "given back, but not noted"},
        {todo.has(action::count_orphan) != (after.orphan && !before.orphan), "an orphan is not counted once"},
        {todo.has(action::flush) != (after.gone() && !before.gone() && !after.over()),
         "what the program left is not sent, or too often"},
        {todo.has(action::salvage) && (e != event::send_failed || after.over()), "a salvage that saves nothing"},
        {todo.has(action::reset_far) || todo.has(action::close_far) || todo.has(action::release_far) ||
             todo.has(action::discard_input) || todo.has(action::drain_tokens),
         "a side is let go before the end"},
        {!after.over() && after.last().bits != 0, "last() speaks before the end"},
        {after.over() && far_let_go == (after.why == cause::connect_failed), "the far side is not let go in one way"},
        {after.last().has(action::drain_tokens) && after.error != 0 && !after.given_back,
         "an error is told and its mark is taken away"},
        {after.impossible() != nullptr, "a state that restore() refuses"},
        {!restored || !(*restored == after), "save and restore make another state"},
    };
    for (const auto& rule : rules) {
        if (rule.broken) {
            return rule.text;
        }
    }
    return nullptr;
}

inline constexpr int events = int(event::recalled) + 1;

}  // namespace vmsgr::life
