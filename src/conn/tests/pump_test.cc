// The pump between a near side made of two strings and a far side that says what the test wants.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <deque>
#include <random>
#include <string>

#include "conn/pump.hh"

namespace vmsgr::conn {

namespace {

struct fake_far final : far_side, pull_source, push_source {
    bool pushes = false;
    std::string taken;              // by send()
    size_t send_room = 1 << 20;
    int send_error = 0, socket_error = 0;
    std::deque<std::string> incoming;
    std::optional<int> end;         // after them
    bool may_end = false, urgent_comes = false;
    std::vector<sends> sent_as;
    size_t credit = 0, credit_wanted = 1;
    bool shut = false;

    conn_path path() const noexcept override { return conn_path::direct; }
    bool watch(ssx::event_set&, far_user&) noexcept override { return true; }
    void unwatch() noexcept override {}
    progress connecting() noexcept override { return progress::up; }
    int take_error() noexcept override { return std::exchange(socket_error, 0); }
    base::address local() const noexcept override { return {}; }
    base::address peer() const noexcept override { return {}; }
    std::variant<pull_source*, push_source*> source() noexcept override {
        if (pushes) {
            return static_cast<push_source*>(this);
        }
        return static_cast<pull_source*>(this);
    }
    bool has_unread() const noexcept override { return !incoming.empty(); }
    ssize_t send(std::span<const iovec> pieces, sends how) noexcept override {
        EXPECT_FALSE(shut) << "bytes after the end of file";
        sent_as.push_back(how);
        if (send_error != 0) {
            return -send_error;
        }
        size_t n = 0;
        for (const iovec& p : pieces) {
            const size_t part = std::min(p.iov_len, send_room - n);
            taken.append(static_cast<const char*>(p.iov_base), part);
            n += part;
        }
        send_room -= n;
        return n != 0 ? ssize_t(n) : -EAGAIN;
    }
    ssize_t receive(std::span<const iovec> space) noexcept override {
        if (incoming.empty()) {
            return end ? -*end : -EAGAIN;
        }
        const size_t n = std::min(space[0].iov_len, incoming.front().size());
        memcpy(space[0].iov_base, incoming.front().data(), n);
        incoming.front().erase(0, n);
        if (incoming.front().empty()) {
            incoming.pop_front();
        }
        return ssize_t(n);
    }
    bool short_read_empties() const noexcept override { return !may_end; }
    bool took_urgent() const noexcept override { return urgent_comes; }
    void set_credit(size_t room) noexcept override { credit = room; }
    bool needs_credit(size_t room) const noexcept override { return room >= credit_wanted; }
    std::optional<int> ended() noexcept override { return end; }
    void shut_send() noexcept override { shut = true; }
    void close() noexcept override {}
    void reset() noexcept override {}
    void release() noexcept override {}
    void discard_input() noexcept override {}
};

struct fake_near {
    std::unique_ptr<far_side> far = std::make_unique<fake_far>();
    life::connection life = life::connection::accepted();
    std::string out, in;            // to the far side, from it
    size_t capacity = 1 << 16;
    std::string buffer = std::string(1 << 16, 0);
    size_t grows = 0;               // with each send
    size_t urgent_at = std::string::npos;  // in `out`
    std::string urgent_in;
    bool fin = false, woken = false, exceeded = false, eof = false;
    int error = 0;
    pump<fake_near> pumps{*this, far, life, 100};

    fake_far& peer() { return static_cast<fake_far&>(*far); }
    bool to_send(size_t& n) noexcept {
        if (fin) {
            step(life::event::shut_write, 0);
        }
        n = out.size();
        return true;
    }
    shm::pieces data(size_t n) noexcept { return {{iovec{out.data(), n}, iovec{}}}; }
    bool more_follows() noexcept { return false; }
    size_t before_urgent(size_t n) const noexcept { return std::min(n, urgent_at); }
    void received_urgent() noexcept {
        urgent_in.append(buffer, 0, 1);
        received(1);
    }
    void sent(size_t n) noexcept {
        out.erase(0, n);
        urgent_at = urgent_at != std::string::npos ? urgent_at - n : urgent_at;  // beyond any, once it is sent
        out.append(grows, 'x');
    }
    bool room_at_all(size_t& n) noexcept { return room(n); }
    bool room(size_t& n) noexcept {
        n = capacity - in.size();
        return true;
    }
    shm::pieces space(size_t n) noexcept { return {{iovec{buffer.data(), n}, iovec{}}}; }
    void received(size_t n) noexcept {
        EXPECT_FALSE(eof) << "bytes after the end of file";
        in.append(buffer, 0, n);
    }
    void wake_program() noexcept { woken = true; }
    void credit_exceeded() noexcept { exceeded = true; }
    life::actions step(life::event e, int err) noexcept {
        const auto todo = life.apply(e, err);
        if (todo.has(life::action::shut_far)) {
            far->shut_send();
        }
        eof = eof || todo.has(life::action::fin_program);
        if (todo.has(life::action::reset_program)) {
            error = todo.error;
        }
        return todo;
    }
    bool push(std::string_view bytes, bool urgent = false) {
        return pumps.take(std::as_bytes(std::span(bytes)), urgent);
    }
};

}  // namespace

TEST(pump, sends_an_urgent_byte_alone_and_as_such) {
    using how = far_side::sends;
    fake_near n;
    n.out = "ab!cd";
    n.urgent_at = 2;
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(n.pumps.send(), next::again);
    }
    EXPECT_EQ(n.pumps.send(), next::near);
    EXPECT_EQ(n.peer().taken, "ab!cd");
    EXPECT_EQ(n.peer().sent_as, (std::vector{how::more_follows, how::urgent, how::all}));
}

TEST(pump, an_urgent_byte_comes_as_such) {
    fake_near n;
    n.peer().incoming = {"!"};
    n.peer().urgent_comes = true;
    EXPECT_EQ(n.pumps.receive(), next::again) << "what follows it brings no event of its own";
    EXPECT_EQ(n.urgent_in, "!");
    EXPECT_EQ(n.in, "!");
}

TEST(pump, an_urgent_byte_that_is_pushed_comes_as_such) {
    fake_near n;
    n.peer().pushes = true;
    EXPECT_TRUE(n.push("ab"));
    EXPECT_TRUE(n.push("!", true));
    EXPECT_TRUE(n.push("cd"));
    EXPECT_EQ(n.urgent_in, "!");
    EXPECT_EQ(n.in, "ab!cd");
}

TEST(pump, sends_all_and_then_the_end_of_file) {
    fake_near n;
    n.out = std::string(250, 'a');
    EXPECT_EQ(n.pumps.send(), next::again);
    EXPECT_EQ(n.pumps.send(), next::again);
    EXPECT_EQ(n.pumps.send(), next::again);
    EXPECT_EQ(n.pumps.send(), next::near);
    EXPECT_FALSE(n.peer().shut);
    n.fin = true;
    EXPECT_EQ(n.pumps.send(), next::done);
    EXPECT_TRUE(n.peer().shut);
    EXPECT_EQ(n.peer().taken, std::string(250, 'a'));
    EXPECT_FALSE(n.pumps.sends());
    EXPECT_TRUE(n.pumps.receives());
}

TEST(pump, a_far_side_that_takes_a_part_is_waited_for) {
    fake_near n;
    n.out = "abcdef";
    n.peer().send_room = 2;
    EXPECT_EQ(n.pumps.send(), next::far);
    EXPECT_EQ(n.pumps.send(), next::far);
    EXPECT_EQ(n.out, "cdef");
}

TEST(pump, what_the_peer_sent_before_it_broke_is_the_programs) {
    for (bool fin_behind : {false, true}) {
        fake_near n;
        n.out = "never taken";
        n.peer().may_end = true;
        n.peer().send_error = ECONNRESET;
        n.peer().incoming = {"first", "second"};
        n.peer().end = fin_behind ? std::optional(0) : std::nullopt;
        EXPECT_EQ(n.pumps.send(), next::done);
        EXPECT_EQ(n.in, "firstsecond");
        EXPECT_FALSE(n.eof) << "the error was taken by the send: the 0 behind it is no end of file";
        EXPECT_EQ(n.error, ECONNRESET);
        EXPECT_TRUE(n.life.over());
    }
}

TEST(pump, an_end_of_file_that_came_before_epipe_is_the_programs_too) {
    fake_near n;
    n.out = "never taken";
    n.peer().may_end = true;
    n.peer().send_error = EPIPE;
    n.peer().incoming = {"last"};
    n.peer().end = 0;
    n.pumps.send();
    EXPECT_EQ(n.in, "last");
    EXPECT_TRUE(n.eof);
    EXPECT_EQ(n.error, EPIPE);
}

TEST(pump, a_full_ring_ends_the_salvage) {
    fake_near n;
    n.capacity = 3;
    n.out = "x";
    n.peer().may_end = true;
    n.peer().send_error = ECONNRESET;
    n.peer().incoming = {"abcdef"};
    n.pumps.send();
    EXPECT_EQ(n.in, "abc");
    EXPECT_EQ(n.error, ECONNRESET);
}

TEST(pump, a_short_read_waits_unless_an_end_may_stand_behind_it) {
    fake_near n;
    n.peer().incoming = {"a", "b"};
    EXPECT_EQ(n.pumps.receive(), next::far);
    EXPECT_TRUE(n.woken);
    n.peer().may_end = true;
    EXPECT_EQ(n.pumps.receive(), next::again);
    EXPECT_EQ(n.pumps.receive(), next::far);
}

TEST(pump, a_reset_right_behind_the_end_of_file_is_told_after_it) {
    fake_near n;
    n.peer().end = 0;
    n.peer().socket_error = ECONNRESET;
    n.pumps.receive();
    EXPECT_TRUE(n.eof);
    EXPECT_EQ(n.error, ECONNRESET);
}

TEST(pump, both_ends_of_file_end_the_connection) {
    fake_near n;
    n.fin = true;
    n.peer().end = 0;
    n.pumps.receive();
    EXPECT_FALSE(n.life.over());
    n.pumps.send();
    EXPECT_EQ(n.life.why, life::cause::in_order);
}

TEST(pump, nobody_reads_for_a_program_that_left) {
    for (bool pushes : {false, true}) {
        fake_near n;
        n.peer().pushes = pushes;
        n.step(life::event::killed, 0);
        n.step(life::event::nothing_unread, 0);
        EXPECT_EQ(n.pumps.receive(), next::far);
        if (pushes) {
            EXPECT_FALSE(n.push("x"));
        } else {
            n.peer().incoming = {"x"};
            EXPECT_EQ(n.pumps.receive(), next::done);
        }
        EXPECT_EQ(n.life.why, life::cause::program_reset);
        EXPECT_EQ(n.in, "");
    }
}

TEST(pump, pushed_bytes_are_taken_within_the_room) {
    fake_near n;
    n.peer().pushes = true;
    n.capacity = 8;
    EXPECT_EQ(n.pumps.receive(), next::far);
    EXPECT_EQ(n.peer().credit, 8u);
    EXPECT_TRUE(n.push("12345"));
    EXPECT_FALSE(n.woken) << "the batch may go on";
    EXPECT_EQ(n.pumps.receive(), next::far);
    EXPECT_EQ(n.peer().credit, 3u);
    EXPECT_TRUE(n.pumps.needs_credit());
    n.peer().credit_wanted = 4;
    EXPECT_FALSE(n.pumps.needs_credit());
    EXPECT_FALSE(n.push("6789"));
    EXPECT_TRUE(n.exceeded);
    EXPECT_EQ(n.in, "12345");
}

TEST(pump, a_source_that_pushes_ends_with_an_end_of_file_or_an_error) {
    for (int how : {0, ETIMEDOUT}) {
        fake_near n;
        n.peer().pushes = true;
        EXPECT_TRUE(n.push("last"));
        n.peer().end = how;
        EXPECT_EQ(n.pumps.receive(), next::done);
        EXPECT_EQ(n.eof, how == 0);
        EXPECT_EQ(n.error, how);
        EXPECT_FALSE(n.push("after"));
        EXPECT_EQ(n.in, "last");
    }
}

TEST(pump, a_flush_ends_although_the_program_goes_on_writing) {
    fake_near n;
    n.grows = 100;
    n.out = std::string(100, 'x');
    n.pumps.flush(1000);
    EXPECT_GE(n.peer().taken.size(), 1000u);
    EXPECT_LE(n.peer().taken.size(), 1200u);
}

TEST(pump, bytes_arrive_in_order_whatever_the_steps) {
    const unsigned seed = std::random_device()();
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    for (int round = 0; round < 300; ++round) {
        fake_near n;
        n.peer().pushes = random() % 2 != 0;
        n.capacity = 1 + random() % 300;
        n.peer().send_room = 0;
        std::string sent, expected;
        for (int step = 0; step < 200; ++step) {
            std::string some(random() % 150, char('a' + random() % 26));
            switch (random() % 6) {
            case 0:
                n.out += some;
                sent += some;
                break;
            case 1: n.peer().send_room += some.size(); break;
            case 2: n.in.size() > n.capacity / 2 ? void(n.capacity += some.size()) : void(); break;
            case 3:
                if (!n.peer().pushes && !some.empty()) {
                    n.peer().incoming.push_back(some);
                    expected += some;
                } else if (some.size() <= n.capacity - n.in.size() && n.push(some)) {
                    expected += some;
                }
                break;
            case 4: n.pumps.send(); break;
            default: n.pumps.receive(); break;
            }
            ASSERT_EQ(n.peer().taken, sent.substr(0, n.peer().taken.size()));
            ASSERT_EQ(n.in, expected.substr(0, n.in.size()));
        }
        n.fin = true;
        n.peer().send_room = n.capacity = 1 << 16;
        n.peer().end = 0;
        while (n.pumps.sends()) {
            n.pumps.send();
        }
        while (n.pumps.receives()) {
            n.pumps.receive();
        }
        ASSERT_EQ(n.peer().taken, sent);
        ASSERT_EQ(n.in, expected);
        ASSERT_TRUE(n.eof && n.peer().shut && n.life.why == life::cause::in_order);
    }
}

}  // namespace vmsgr::conn
