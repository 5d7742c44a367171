// The rows of the table that have a name: what Linux TCP does.
#include <errno.h>
#include <gtest/gtest.h>

#include "life/connection.hh"

namespace vmsgr::life {

namespace {

struct told {
    event e;
    int err = 0;
    told(event what, int with = 0) : e(what), err(with) {}
};

actions after(connection& c, std::initializer_list<told> events) {
    actions last;
    for (const told& t : events) {
        last = c.apply(t.e, t.err);
    }
    return last;
}

constexpr uint16_t bits(std::initializer_list<action> list) {
    uint16_t all = 0;
    for (action a : list) {
        all |= uint16_t(a);
    }
    return all;
}

}  // namespace

TEST(table, it_is_over_once_both_directions_have_ended) {
    auto c = connection::accepted();
    after(c, {event::shut_write});
    EXPECT_EQ(after(c, {event::all_sent}).bits, bits({action::shut_far}));
    EXPECT_EQ(after(c, {event::far_fin}).bits, bits({action::fin_program}));
    EXPECT_EQ(after(c, {event::all_received}).bits, bits({action::finish}));
    EXPECT_EQ(c.why, cause::in_order);
    EXPECT_EQ(c.last().bits, bits({action::close_far, action::drain_tokens}));

    c = connection::accepted();
    EXPECT_EQ(after(c, {event::far_fin, event::all_received}).bits, 0);
    EXPECT_EQ(after(c, {event::shut_write, event::all_sent}).bits, bits({action::shut_far, action::finish}));
}

TEST(table, a_hang_up_after_both_ends_of_file_means_that_the_program_is_still_there) {
    auto c = connection::accepted();
    after(c, {event::far_fin, event::all_received, event::shut_write});
    EXPECT_EQ(after(c, {event::killed}).bits, bits({action::watch, action::wake_out, action::wake_in}));
    EXPECT_EQ(c.program, side::shut);
}

TEST(table, a_close_sends_what_the_ring_holds_first) {
    auto c = connection::accepted();
    EXPECT_EQ(after(c, {event::killed}).bits, bits({action::flush}));
    EXPECT_EQ(after(c, {event::nothing_unread}).bits,
              bits({action::count_orphan, action::watch, action::wake_out, action::wake_in}));
    EXPECT_EQ(after(c, {event::all_sent}).bits, bits({action::finish}));
    EXPECT_EQ(c.last().bits, bits({action::close_far, action::drain_tokens}));
}

TEST(table, a_close_with_unread_bytes_resets_after_the_flush) {
    auto c = connection::accepted();
    EXPECT_EQ(after(c, {event::killed, event::all_sent}).bits, 0);
    EXPECT_EQ(after(c, {event::program_reset}).bits, bits({action::finish}));
    EXPECT_EQ(c.last().bits, bits({action::reset_far}));
}

TEST(table, an_end_of_file_goes_out_before_a_reset_by_linger) {
    auto c = connection::accepted();
    after(c, {event::shut_write, event::killed});
    EXPECT_EQ(after(c, {event::all_sent}).bits, bits({action::shut_far}));
    after(c, {event::program_reset});
    EXPECT_EQ(c.last().bits, bits({action::reset_far}));
}

TEST(table, a_killed_program_sends_no_end_of_file_of_its_own) {
    auto c = connection::accepted();
    EXPECT_FALSE(after(c, {event::killed, event::all_sent}).has(action::shut_far));
}

TEST(table, both_directions_shut_flushes_and_reads_no_more) {
    auto c = connection::accepted();
    after(c, {event::shut_read, event::shut_write});
    EXPECT_EQ(after(c, {event::killed}).bits, bits({action::watch, action::wake_out, action::wake_in}));
    EXPECT_EQ(c.program, side::shut);
    EXPECT_EQ(c.in, way::ended);
    EXPECT_EQ(after(c, {event::all_sent}).bits, bits({action::shut_far, action::finish}));
}

TEST(table, shut_reading_alone_changes_nothing_on_the_wire) {
    auto c = connection::accepted();
    EXPECT_EQ(after(c, {event::shut_read}).bits, 0);
    EXPECT_EQ(c.in, way::open);
    EXPECT_EQ(after(c, {event::killed}).bits, bits({action::flush}));  // not shut both ways: its holder is gone
}

TEST(table, what_the_far_side_sent_before_it_broke_is_received_before_the_error_is_told) {
    auto c = connection::accepted();
    auto todo = after(c, {{event::send_failed, ECONNRESET}});
    EXPECT_EQ(todo.bits, bits({action::salvage}));
    EXPECT_EQ(after(c, {event::far_fin}).bits, 0);  // the send took the error: this is no end of file
    todo = after(c, {{event::far_failed, ECONNRESET}});
    EXPECT_EQ(todo.bits, bits({action::finish, action::reset_program}));
    EXPECT_EQ(todo.error, ECONNRESET);
}

TEST(table, an_end_of_file_before_epipe_is_one) {
    auto c = connection::accepted();
    after(c, {{event::send_failed, EPIPE}});
    EXPECT_EQ(after(c, {event::far_fin}).bits, bits({action::fin_program}));
    EXPECT_EQ(after(c, {{event::far_failed, EPIPE}}).bits, bits({action::finish, action::reset_program}));
}

TEST(table, a_reset_behind_the_end_of_file_is_told) {
    auto c = connection::accepted();
    after(c, {event::shut_write, event::all_sent, event::far_fin});
    EXPECT_TRUE(after(c, {{event::far_failed, ECONNRESET}}).has(action::reset_program));
}

TEST(table, a_program_that_left_is_told_nothing) {
    auto c = connection::accepted();
    after(c, {event::killed, event::nothing_unread});
    EXPECT_EQ(after(c, {event::far_fin}).bits, 0);
    EXPECT_EQ(after(c, {{event::far_failed, ECONNRESET}}).bits, bits({action::finish}));
}

TEST(table, a_failed_connect_gives_the_socket_back) {
    connection c;
    auto todo = after(c, {{event::connect_failed, ECONNREFUSED}});
    EXPECT_EQ(todo.bits, bits({action::finish, action::give_back}));
    EXPECT_EQ(todo.error, ECONNREFUSED);
    EXPECT_EQ(c.last().bits, 0);
    EXPECT_EQ(after(c, {event::recalled, event::killed}).bits, 0);
}

TEST(table, a_program_that_leaves_before_the_connect_is_decided_cancels_it) {
    connection c;
    EXPECT_EQ(after(c, {event::killed}).bits, bits({action::finish}));
    EXPECT_EQ(c.last().bits, bits({action::close_far}));
}

TEST(table, a_shutdown_before_the_connect_is_decided_is_remembered) {
    connection c;
    after(c, {event::shut_write, event::connected});
    EXPECT_TRUE(c.last_bytes());
    EXPECT_EQ(after(c, {event::all_sent}).bits, bits({action::shut_far}));
}

TEST(table, a_recalled_socket_is_dropped_without_a_word) {
    for (connection c : {connection{}, connection::accepted()}) {
        EXPECT_EQ(after(c, {event::recalled}).bits, bits({action::finish}));
        EXPECT_EQ(c.last().bits, bits({action::release_far, action::drain_tokens}));
    }
}

TEST(table, a_recall_after_the_end_still_keeps_our_hands_off_the_socket) {
    auto c = connection::accepted();
    after(c, {event::rules_broken});
    EXPECT_TRUE(c.last().has(action::reset_far));
    EXPECT_EQ(after(c, {event::recalled}).bits, 0);
    EXPECT_FALSE(c.last().has(action::reset_far));
}

TEST(table, a_stop_flushes_and_then_tells_the_program) {
    auto c = connection::accepted();
    EXPECT_EQ(after(c, {event::stop}).bits, bits({action::watch, action::wake_out}));
    auto todo = after(c, {event::all_sent});
    EXPECT_EQ(todo.bits, bits({action::finish, action::reset_program}));
    EXPECT_EQ(todo.error, ECONNRESET);
    EXPECT_EQ(c.last().bits, bits({action::reset_far}));  // the program had not ended its output
}

TEST(table, a_stop_is_a_clean_end_of_what_the_program_had_ended) {
    for (auto ends : {std::vector{event::shut_write}, std::vector{event::killed, event::nothing_unread}}) {
        auto c = connection::accepted();
        for (event e : ends) {
            after(c, {e});
        }
        after(c, {event::stop, event::all_sent});
        EXPECT_EQ(c.why, cause::stopped);
        EXPECT_TRUE(c.last().has(action::close_far));
    }
}

TEST(table, time_out_counts_only_where_somebody_waits) {
    auto c = connection::accepted();
    EXPECT_EQ(after(c, {event::time_out}).bits, 0);
    after(c, {event::killed, event::nothing_unread});
    EXPECT_EQ(after(c, {event::time_out}).bits, bits({action::finish}));
    EXPECT_EQ(c.last().bits, bits({action::reset_far}));
}

TEST(table, a_program_that_breaks_the_rules_hears_of_a_reset_and_so_does_the_far_side) {
    auto c = connection::accepted();
    auto todo = after(c, {event::rules_broken});
    EXPECT_EQ(todo.bits, bits({action::finish, action::reset_program}));
    EXPECT_EQ(todo.error, ECONNRESET);
    EXPECT_EQ(c.last().bits, bits({action::reset_far}));
}

}  // namespace vmsgr::life
