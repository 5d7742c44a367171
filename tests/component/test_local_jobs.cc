// Local connections as a program asks for them: jobs that lie about the memory of an earlier one, those that the daemon has no
// room to keep, and the memory that it forgets.
#include <gtest/gtest.h>
#include <poll.h>

#include "daemon_process.hh"
#include "test_client.hh"

namespace vmsgr::test {

class local_jobs : public ::testing::Test {
protected:
    std::unique_ptr<daemon_process> d;
    std::unique_ptr<client> accepting, connecting;
    tcp_listener l = tcp_listen();
    base::unique_fd bell;
    uint64_t listener = 0;

    void start(const std::string& limits = {}) {
        d = std::make_unique<daemon_process>(std::string(daemon_process::all_direct) + limits);
        accepting = std::make_unique<client>(d->socket());
        connecting = std::make_unique<client>(d->socket());
        bell = accepting->listen(l.fd.get());
        listener = accepting->jobs().listen[0].key;
        while (d->status()["listeners"].empty()) {
            ::poll(nullptr, 0, 5);
        }
    }
    uint64_t total(const char* name) { return d->status()["totals"][name]; }
    // Two descriptors: the memory is that of an earlier connection with this key. What the doorbell shows then.
    short again(client& c, uint64_t key) {
        auto b = std::move(shm::make_bell().value());
        auto tcp = tcp_bound();
        c.post_connect(0, key, l.address, {b.other.get(), tcp.get()}, listener);
        b.other.reset();
        pollfd p{b.program.get(), 0, 0};
        ::poll(&p, 1, 2000);
        return p.revents;
    }
    bool until(auto&& condition) {
        for (int i = 0; i < 600 && !condition(); ++i) {
            ::poll(nullptr, 0, 10);
        }
        return condition();
    }
    static void leave(conn& c, unsigned end, uint32_t flags) {
        c.header().end[end].flags.fetch_or(flags | shm::end_left | shm::end_done, std::memory_order_release);
    }
};

TEST_F(local_jobs, again_with_a_made_up_key_is_refused_and_concerns_nobody) {
    start();
    EXPECT_NE(again(*connecting, 0x1234567890abcdef) & POLLHUP, 0);
    EXPECT_EQ(total("refused"), 1u);
    EXPECT_EQ(total("faults"), 0u);
    EXPECT_FALSE(connecting->closed(50));
    EXPECT_FALSE(take_accepted(bell.get(), 50)) << "the listener hears nothing of it";
    connecting->connect_locally(l.address, listener);
    EXPECT_TRUE(take_accepted(bell.get())) << "and honest ones go on";
}

TEST_F(local_jobs, again_with_the_key_of_an_open_connection_is_refused_to_everybody) {
    start();
    auto near = connecting->connect_locally(l.address, listener);
    auto far = take_accepted(bell.get());
    ASSERT_TRUE(far);
    // Even what the shared memory says of the other end does not help: the daemon asks that end's own page.
    leave(near, 0, shm::end_kept);
    leave(near, 1, 0);
    client stranger(d->socket());
    uint64_t refused = 0;
    for (auto [who, key] : {std::pair(&stranger, near.key), std::pair(&stranger, far->key),
                            std::pair(connecting.get(), far->key), std::pair(connecting.get(), near.key)}) {
        EXPECT_NE(again(*who, key) & POLLHUP, 0);
        EXPECT_EQ(total("refused"), ++refused);
        EXPECT_FALSE(who->closed(20));
    }
    EXPECT_FALSE(take_accepted(bell.get(), 50));
    EXPECT_EQ(near.poll(0, 0) & POLLHUP, 0) << "the connection itself goes on";
    EXPECT_EQ(far->poll(0, 0) & POLLHUP, 0);
}

TEST_F(local_jobs, again_without_a_listener_ends_the_session) {
    start();
    auto b = std::move(shm::make_bell().value());
    auto tcp = tcp_bound();
    connecting->post_connect(0, 77, l.address, {b.other.get(), tcp.get()});
    EXPECT_TRUE(connecting->closed());
    EXPECT_EQ(d->faults("bad_job"), 1u);
    EXPECT_FALSE(accepting->closed(20));
}

TEST_F(local_jobs, what_a_limit_leaves_no_room_for_is_delivered_and_not_kept) {
    start("limits:\n  connections: 2\n");
    auto kept = connecting->connect_locally(l.address, listener);
    ASSERT_TRUE(take_accepted(bell.get()));
    EXPECT_EQ(total("locals_not_kept"), 0u);
    EXPECT_EQ(total("connections_open"), 2u);
    auto alone = connecting->connect_locally(l.address, listener);
    auto far = take_accepted(bell.get());
    ASSERT_TRUE(far);
    EXPECT_EQ(total("locals_not_kept"), 1u);
    EXPECT_EQ(total("connections_open"), 2u) << "it counts for nothing";
    EXPECT_EQ(total("refused"), 0u);
    // The two programs have the same memory, and each other's doorbell.
    alone.header().ring[0].head.store(123);
    EXPECT_EQ(far->header().ring[0].head.load(), 123u);
    far->fd.reset();
    EXPECT_NE(alone.poll(0) & POLLHUP, 0);
    // Nobody can inherit it: the daemon does not know it.
    EXPECT_EQ(connecting->ask_for(proto::kind::adopt, alone.key), -ENOENT);
    int memory = connecting->ask_for(proto::kind::adopt, kept.key);
    EXPECT_GE(memory, 0);
    ::close(memory);
}

TEST_F(local_jobs, memory_that_rests_counts_for_no_limit_and_is_forgotten_with_its_peer) {
    start();
    auto near = connecting->connect_locally(l.address, listener);
    auto far = take_accepted(bell.get());
    ASSERT_TRUE(far);
    EXPECT_EQ(total("connections_open"), 2u);
    leave(near, 1, 0);
    leave(near, 0, shm::end_kept);
    EXPECT_TRUE(until([&] { return total("connections_open") == 0; }));
    EXPECT_EQ(near.header().forgotten.load(), 0u) << "it may be used again";
    accepting.reset();
    EXPECT_TRUE(until([&] { return near.header().forgotten.load() == 1; }));
}

}  // namespace vmsgr::test
