// All states that a connection can be in, each with every event and with every pair of events.
#include <errno.h>
#include <gtest/gtest.h>

#include <deque>
#include <set>

#include "life/tests/rules.hh"

namespace vmsgr::life {

namespace {

constexpr int some_error = ETIMEDOUT;

std::string text(const connection& c) {
    std::string s;
    for (std::byte b : c.save()) {
        s += std::to_string(unsigned(b)) + ' ';
    }
    return s;
}

// Errors are told apart only as far as the table does.
const std::set<connection::saved>& reached() {
    static const auto all = [] {
        std::set<connection::saved> seen;
        std::deque<connection> open;
        auto add = [&](connection c) {
            c.error = c.error != 0 ? some_error : 0;
            if (seen.insert(c.save()).second) {
                open.push_back(c);
            }
        };
        add({});
        add(connection::accepted());
        for (; !open.empty(); open.pop_front()) {
            for (int e = 0; e < events; ++e) {
                for (int err : {some_error, EPIPE}) {
                    connection next = open.front();
                    next.apply(event(e), err);
                    add(next);
                }
            }
        }
        return seen;
    }();
    return all;
}

connection restored(const connection::saved& bytes) { return connection::restore(bytes).value(); }

}  // namespace

TEST(states, every_state_with_every_event_keeps_the_rules) {
    for (const auto& bytes : reached()) {
        for (int e = 0; e < events; ++e) {
            for (int err : {some_error, EPIPE, 0}) {
                const connection before = restored(bytes);
                connection after = before;
                const actions todo = after.apply(event(e), err);
                const char* broken = broken_rule(before, event(e), after, todo);
                ASSERT_EQ(broken, nullptr)
                    << broken << ": event " << e << " in " << text(before) << "-> " << text(after);
            }
        }
    }
}

TEST(states, every_pair_of_events_keeps_the_rules) {
    for (const auto& bytes : reached()) {
        for (int first = 0; first < events; ++first) {
            connection once = restored(bytes);
            once.apply(event(first), some_error);
            for (int second = 0; second < events; ++second) {
                connection twice = once;
                const actions todo = twice.apply(event(second), some_error);
                const char* broken = broken_rule(once, event(second), twice, todo);
                ASSERT_EQ(broken, nullptr)
                    << broken << ": events " << first << ", " << second << " in " << text(restored(bytes));
                if (first == second) {
                    ASSERT_EQ(twice, once) << "event " << first << " counts twice in " << text(restored(bytes));
                    ASSERT_EQ(todo.bits, 0) << "event " << first << " acts twice in " << text(restored(bytes));
                }
            }
        }
    }
}

// The verdict on a program that left belongs to the flush before it, and the order of fin and hang-up is what the ring
// says: these pairs may differ. The ends of the two directions are independent of each other.
TEST(states, the_order_of_two_ends_of_file_does_not_matter) {
    for (const auto& bytes : reached()) {
        connection a = restored(bytes), b = a;
        a.apply(event::shut_write);
        a.apply(event::far_fin);
        b.apply(event::far_fin);
        b.apply(event::shut_write);
        ASSERT_EQ(a, b) << text(restored(bytes));
    }
}

TEST(states, every_connection_comes_to_its_end) {
    for (const auto& bytes : reached()) {
        connection c = restored(bytes);
        for (event e : {event::stop, event::time_out}) {
            c.apply(e);
        }
        ASSERT_TRUE(c.over()) << text(restored(bytes));
    }
}

TEST(states, each_cause_is_reached) {
    std::set<cause> causes;
    for (const auto& bytes : reached()) {
        causes.insert(restored(bytes).why);
    }
    EXPECT_EQ(causes.size(), size_t(cause::recalled) + 1);
}

TEST(saved, restore_takes_the_states_that_are_reached_and_no_other) {
    size_t taken = 0;
    connection c;
    auto each = [](auto& field, auto last, auto&& rest) {
        for (unsigned value = 0; value <= unsigned(last); ++value) {
            field = std::remove_reference_t<decltype(field)>(value);
            rest();
        }
    };
    auto flags_and_error = [&] {
        for (unsigned flags = 0; flags < 32; ++flags) {
            c.given_back = flags & 1;
            c.read_shut = flags & 2;
            c.stopping = flags & 4;
            c.orphan = flags & 8;
            c.error = flags & 16 ? some_error : 0;
            const auto bytes = c.save();
            const auto back = connection::restore(bytes);
            const bool known = reached().contains(bytes);
            taken += bool(back);
            EXPECT_EQ(bool(back), known) << text(c) << (back ? "taken" : back.error());
            EXPECT_TRUE(!back || *back == c);
        }
    };
    each(c.at, phase::over, [&] {
        each(c.out, way::ended, [&] {
            each(c.in, way::ended, [&] {
                each(c.program, side::killed,
                     [&] { each(c.far, side::killed, [&] { each(c.why, cause::recalled, flags_and_error); }); });
            });
        });
    });
    EXPECT_EQ(taken, reached().size());
    EXPECT_GT(taken, 1000u);
}

TEST(saved, restore_refuses_each_corrupted_byte) {
    connection c = connection::accepted();
    c.apply(event::shut_write);
    c.apply(event::far_failed, some_error);
    const auto good = c.save();
    ASSERT_TRUE(connection::restore(good));
    for (size_t i = 0; i < good.size(); ++i) {
        for (unsigned value = 0; value < 256; ++value) {
            auto bad = good;
            bad[i] = std::byte(value);
            EXPECT_EQ(bool(connection::restore(bad)), bad == good) << "byte " << i << " = " << value;
        }
    }
}

TEST(saved, restore_refuses_what_it_does_not_know_with_a_right_sum_too) {
    auto with = [](size_t at, unsigned value) {
        auto bytes = connection::accepted().save();
        bytes[15] = std::byte(unsigned(bytes[15]) - unsigned(bytes[at]) + value);
        bytes[at] = std::byte(value);
        return bytes;
    };
    EXPECT_TRUE(connection::restore(with(1, 1)));
    EXPECT_STREQ(connection::restore(with(0, 2)).error(), "saved by another version");
    for (auto [at, beyond] : {std::pair{1, 4}, {2, 3}, {3, 3}, {4, 4}, {5, 4}, {6, 12}, {7, 16}}) {
        EXPECT_STREQ(connection::restore(with(size_t(at), unsigned(beyond))).error(), "a value that no field has");
    }
    for (size_t at : {12u, 13u, 14u}) {
        EXPECT_STREQ(connection::restore(with(at, 1)).error(), "a byte is set that means nothing");
    }
    const auto good = connection::accepted().save();
    EXPECT_FALSE(connection::restore(std::span(good).first(15)));
    EXPECT_FALSE(connection::restore({}));
}

TEST(saved, negative_and_large_errors_come_back) {
    for (int err : {-1, 1 << 30, -(1 << 30), 255, 256}) {
        connection c = connection::accepted();
        c.apply(event::far_failed, err);
        EXPECT_EQ(connection::restore(c.save()).value(), c);
    }
}

}  // namespace vmsgr::life
