#include "life/connection.hh"

#include <errno.h>

#include <initializer_list>
#include <type_traits>

namespace vmsgr::life {

static_assert(std::is_trivially_copyable_v<connection>);

namespace {

constexpr actions act(std::initializer_list<action> list, int err = 0) noexcept {
    actions a{.error = err};
    for (action one : list) {
        a |= one;
    }
    return a;
}

// Ends of which the program is always told.
constexpr bool tells_program(cause c) noexcept {
    return c == cause::connect_failed || c == cause::far_error || c == cause::rules_broken || c == cause::aborted;
}

constexpr bool resets_far(cause c) noexcept {
    return c == cause::program_reset || c == cause::rules_broken || c == cause::timed_out || c == cause::aborted ||
           c == cause::cut;
}

}  // namespace

actions connection::apply(event e, int err) noexcept {
    if (given_back) {
        return {};
    }
    if (e == event::recalled) {
        given_back = true;
        return over() ? (why = cause::recalled, actions{}) : over_by(cause::recalled);
    }
    if (over()) {
        return {};
    }
    switch (e) {
    case event::connected:
        if (at != phase::connecting) {
            return {};
        }
        at = phase::established;
        return act({action::wake_out, action::wake_in});
    case event::connect_failed: return at == phase::connecting ? over_by(cause::connect_failed, err) : actions{};
    case event::shut_read: read_shut = true; return {};
    case event::shut_write:
        if (out != way::open) {
            return {};
        }
        out = way::fin;
        return act({action::wake_out});
    case event::closed: return on_hang_up(side::left);
    case event::killed: return on_hang_up(side::killed);
    case event::nothing_unread: return on_nothing_unread();
    case event::program_reset: return over_by(cause::program_reset);
    case event::all_sent: return on_all_sent();
    case event::far_fin: return on_far_fin();
    case event::all_received:
        return in == way::fin && out == way::ended && !gone() ? over_by(cause::in_order) : actions{};
    case event::send_failed: return on_send_failed(err);
    case event::far_failed:
        if (at == phase::connecting) {
            return over_by(cause::connect_failed, err);
        }
        far = far == side::left ? side::left : side::killed;
        return over_by(cause::far_error, err);
    case event::rules_broken: return over_by(cause::rules_broken);
    case event::stop: return on_stop();
    case event::time_out: return orphan || program == side::shut || stopping ? over_by(cause::timed_out) : actions{};
    case event::aborted: return over_by(cause::aborted);
    case event::recalled: break;
    }
    return {};
}

// The program is gone and has read everything: what it sent still leaves.
actions connection::on_nothing_unread() noexcept {
    if (!gone() || orphan) {
        return {};
    }
    if (out == way::ended) {
        return over_by(cause::in_order);
    }
    orphan = true;
    return act({action::count_orphan, action::watch, action::wake_out, action::wake_in});
}

// The socket gave its error to the send, so a receive of 0 that follows is no end of file. But EPIPE says that the far
// side's own end of file came first.
actions connection::on_send_failed(int err) noexcept {
    if (at == phase::connecting || far == side::left || far == side::killed) {
        return {};
    }
    far = err == EPIPE ? side::left : side::killed;
    return act({action::salvage}, err);
}

// Every end comes by here. A program that is still there learns of any that it did not bring about itself.
actions connection::over_by(cause c, int err) noexcept {
    if (c == cause::connect_failed) {
        given_back = true;
    }
    at = phase::over;
    why = c;
    if (err == 0 && (tells_program(c) || (stopping && c != cause::recalled))) {
        err = ECONNRESET;
    }
    actions todo = act({action::finish});
    if (err != 0 && !gone()) {
        error = todo.error = err;
        todo |= given_back ? action::give_back : action::reset_program;
    }
    return todo;
}

// The kernel shows a hang-up when the last holder of the program's end is gone, and also when both directions are shut
// down, although the program is still there.
actions connection::on_hang_up(side how) noexcept {
    if (program != side::held) {
        return {};
    }
    if (at == phase::connecting) {
        program = how;
        return over_by(cause::cancelled);
    }
    at = phase::closing;
    if (out == way::open || (!read_shut && in != way::fin)) {
        program = how;
        return act({action::flush});
    }
    program = side::shut;
    in = in == way::open ? way::ended : in;
    return out == way::ended ? over_by(cause::in_order) : act({action::watch, action::wake_out, action::wake_in});
}

actions connection::on_all_sent() noexcept {
    if (at == phase::connecting || out == way::ended || !last_bytes()) {
        return {};
    }
    // Also where a reset follows, as for a program that sets SO_LINGER to 0 after its shutdown().
    const bool tells_far = out == way::fin;
    out = way::ended;
    at = phase::closing;
    actions todo;
    // A program that left a moment ago and is no orphan: nothing_unread or program_reset comes next.
    if (gone() ? orphan : program == side::shut || stopping || in == way::fin) {
        // An end of file would say that this was all.
        todo = over_by(!stopping ? cause::in_order : tells_far || gone() ? cause::stopped : cause::cut);
    }
    if (tells_far) {
        todo |= action::shut_far;
    }
    return todo;
}

actions connection::on_far_fin() noexcept {
    if (at == phase::connecting || in != way::open) {
        return {};
    }
    at = phase::closing;
    if (gone() || far == side::killed) {
        in = way::ended;
        return {};
    }
    in = way::fin;
    far = far == side::held ? side::shut : far;
    return act({action::fin_program});
}

actions connection::on_stop() noexcept {
    if (stopping) {
        return {};
    }
    stopping = true;
    return at == phase::connecting || out == way::ended ? over_by(cause::stopped)
                                                        : act({action::watch, action::wake_out});
}

actions connection::last() const noexcept {
    if (!over() || why == cause::connect_failed) {
        return {};
    }
    if (given_back) {
        return act({action::release_far, action::drain_tokens});
    }
    if (resets_far(why)) {
        return act({action::reset_far});
    }
    actions todo = act({action::close_far});
    if (program == side::shut) {
        todo |= action::discard_input;
    }
    if (error == 0 && why != cause::cancelled && why != cause::far_error) {
        todo |= action::drain_tokens;
    }
    return todo;
}

}  // namespace vmsgr::life
