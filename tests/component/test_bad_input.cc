// Programs that break the contract: their own connection or session ends, it is counted, and all others go on.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon_process.hh"
#include "test_client.hh"

namespace vmsgr::test {

class bad_input : public ::testing::Test {
protected:
    daemon_process d;
    echo_server server;
    client good{d.socket()}, bad{d.socket()};
    conn bystander = good.connect(server.address());

    void SetUp() override { ASSERT_EQ(bystander.wait_connected(), 0); }
    void TearDown() override {
        auto m = random_bytes(1000, 1);
        bystander.send(m);
        EXPECT_EQ(bystander.receive_exactly(m.size()), m) << "nobody else is concerned";
    }
    conn connected() {
        conn c = bad.connect(server.address());
        EXPECT_EQ(c.wait_connected(), 0);
        return c;
    }
    // As a sender does after a publish, whatever it has published.
    static void ring_the_bell(conn& c) {
        auto& ring = c.header().ring[0];
        if (ring.consumer_waits.exchange(0) != 0) {
            ring.tokens_sent.fetch_add(1);
            EXPECT_TRUE(c.end().doorbell.send_token());
        }
    }
};

TEST_F(bad_input, head_beyond_the_capacity) {
    auto c = connected();
    c.header().ring[0].head.store(c.memory.capacity + 1);
    ring_the_bell(c);
    EXPECT_NE(c.poll(0) & POLLHUP, 0);
    EXPECT_EQ(c.reset_error(), ECONNRESET);
    EXPECT_EQ(d.faults("bad_ring_index"), 1u);
    EXPECT_FALSE(bad.closed(50)) << "the connection alone ends";
}

TEST_F(bad_input, head_that_goes_back) {
    auto c = connected();
    c.send(random_bytes(1000, 2));
    c.receive_exactly(1000);
    c.header().ring[0].head.store(10);
    ring_the_bell(c);
    EXPECT_NE(c.poll(0) & POLLHUP, 0);
    EXPECT_EQ(d.faults("bad_ring_index"), 1u);
}

TEST_F(bad_input, tail_beyond_the_head) {
    auto c = connected();
    c.header().ring[1].tail.store(uint64_t(1) << 63);
    c.send(random_bytes(10, 3));  // its echo meets the tail
    EXPECT_NE(c.poll(0) & POLLHUP, 0);
    EXPECT_EQ(d.faults("bad_ring_index"), 1u);
}

TEST_F(bad_input, raw_write_into_the_doorbell) {
    auto c = connected();
    ::poll(nullptr, 0, 5);
    EXPECT_EQ(::write(c.fd.get(), "hello", 5), 5);
    EXPECT_NE(c.poll(0) & POLLHUP, 0);
    EXPECT_EQ(c.reset_error(), ECONNRESET);
    EXPECT_EQ(d.faults("foreign_bytes"), 1u);
}

TEST_F(bad_input, uncounted_tokens) {
    auto c = connected();
    ::poll(nullptr, 0, 5);
    c.end().doorbell.send_token();
    EXPECT_NE(c.poll(0) & POLLHUP, 0);
    EXPECT_EQ(d.faults("foreign_bytes"), 1u);
}

TEST_F(bad_input, memory_without_seals) {
    shm::new_arena m;
    m.fd.reset(::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    ASSERT_EQ(::ftruncate(m.fd.get(), off_t(shm::arena_bytes(1, 4096))), 0);
    auto bell = std::move(shm::make_bell().value());
    auto tcp = tcp_connect(server.address());
    bad.post_connect(0, bad.next_id(), server.address(), {bell.other.get(), tcp.get(), m.fd.get()});
    EXPECT_TRUE(bad.closed());
    EXPECT_EQ(d.faults("bad_memory"), 1u);
}

TEST_F(bad_input, memory_with_rings_of_no_power_of_two) {
    auto fd = std::move(shm::create_sealed("odd", shm::arena_bytes(1, 5000)).value());
    auto bell = std::move(shm::make_bell().value());
    auto tcp = tcp_connect(server.address());
    bad.post_connect(0, bad.next_id(), server.address(), {bell.other.get(), tcp.get(), fd.get()});
    EXPECT_TRUE(bad.closed());
    EXPECT_EQ(d.faults("bad_memory"), 1u);
}

TEST_F(bad_input, memory_of_huge_pages) {
    base::unique_fd fd(::memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB));
    if (!fd || ::ftruncate(fd.get(), 4 << 20) != 0) {
        GTEST_SKIP() << "no huge pages here";
    }
    ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    auto bell = std::move(shm::make_bell().value());
    auto tcp = tcp_connect(server.address());
    bad.post_connect(0, bad.next_id(), server.address(), {bell.other.get(), tcp.get(), fd.get()});
    EXPECT_TRUE(bad.closed());
    EXPECT_EQ(d.faults("bad_memory"), 1u);
}

TEST_F(bad_input, slot_that_the_memory_does_not_have) {
    auto m = new_memory(4096, 2);
    auto bell = std::move(shm::make_bell().value());
    auto tcp = tcp_connect(server.address());
    for (uint32_t slot : {2u, 64u, 0xffffffffu}) {
        client c(d.socket());
        c.post_connect(0, c.next_id(), server.address(), {bell.other.get(), tcp.get(), m.fd.get()}, slot);
        EXPECT_TRUE(c.closed()) << slot;
    }
    EXPECT_EQ(d.faults("bad_memory"), 3u);
}

TEST_F(bad_input, listening_socket_that_is_made_blocking_again) {
    auto l = tcp_listen();
    auto door = bad.listen(l.fd.get());
    ::poll(nullptr, 0, 50);
    int flags = ::fcntl(l.fd.get(), F_GETFL);
    ASSERT_NE(flags & O_NONBLOCK, 0) << "the daemon shares it";
    for (int i = 0; i < 5; ++i) {  // on either shard, accept waits after the last connection
        ASSERT_EQ(::fcntl(l.fd.get(), F_SETFL, flags & ~O_NONBLOCK), 0);
        auto peer = tcp_connect(l.address);
        ASSERT_TRUE(take_accepted(door));
        conn other = good.connect(server.address());
        EXPECT_EQ(other.wait_connected(1000), 0) << "no shard is held up";
    }
}

TEST_F(bad_input, descriptors_of_another_kind) {
    int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    auto m = new_memory(4096);
    auto bell = std::move(shm::make_bell().value());
    bad.post_connect(0, bad.next_id(), server.address(), {bell.other.get(), null, m.fd.get()});
    EXPECT_TRUE(bad.closed());
    client again(d.socket());
    auto tcp = tcp_connect(server.address());
    again.post_connect(0, again.next_id(), server.address(), {null, tcp.get(), m.fd.get()});
    EXPECT_TRUE(again.closed());
    EXPECT_EQ(d.faults("bad_descriptor"), 2u);
    ::close(null);
}

TEST_F(bad_input, connect_without_memory) {
    auto bell = std::move(shm::make_bell().value());
    auto tcp = tcp_connect(server.address());
    bad.post_connect(0, bad.next_id(), server.address(), {bell.other.get(), tcp.get()});
    EXPECT_TRUE(bad.closed());
    EXPECT_EQ(d.faults("bad_job"), 1u);
}

TEST_F(bad_input, too_few_descriptors) {
    auto m = new_memory(4096);
    bad.post_connect(0, bad.next_id(), server.address(), {m.fd.get()});
    EXPECT_TRUE(bad.closed());
    EXPECT_EQ(d.faults("bad_job"), 1u);
}

TEST_F(bad_input, job_slot_out_of_range_or_not_posted) {
    for (uint32_t slot : {shm::connect_slots, 0xffffffffu, 7u}) {
        client c(d.socket());
        auto m = new_memory(4096);
        auto bell = std::move(shm::make_bell().value());
        auto tcp = tcp_connect(server.address());
        proto::request_msg r;
        r.what = proto::kind::connect;
        r.slot = slot;
        r.id = c.next_id();
        int fds[] = {bell.other.get(), tcp.get(), m.fd.get()};
        proto::send_with_fds(c.control.get(), &r, sizeof r, fds, 0);
        EXPECT_TRUE(c.closed()) << slot;
    }
    EXPECT_EQ(d.faults("bad_job"), 3u);
}

TEST_F(bad_input, unknown_message) {
    proto::request_msg r;
    r.what = proto::kind(999);
    proto::send_with_fds(bad.control.get(), &r, sizeof r, {}, 0);
    EXPECT_TRUE(bad.closed());
    EXPECT_EQ(d.faults("bad_message"), 1u);
}

TEST_F(bad_input, job_from_a_session_that_only_asks) {
    client c(d.socket(), proto::session_kind::query);
    proto::request_msg r;
    r.what = proto::kind::connect;
    proto::send_with_fds(c.control.get(), &r, sizeof r, {}, 0);
    EXPECT_TRUE(c.closed());
    EXPECT_EQ(d.faults("bad_message"), 1u);
}

TEST_F(bad_input, questions_whose_answers_are_not_read) {
    proto::request_msg r;
    r.what = proto::kind::routes;
    // Until the daemon takes no more of them.
    int sent = 0, full = 0;
    while (sent < 100000 && full < 50) {
        if (proto::send_with_fds(bad.control.get(), &r, sizeof r, {}, MSG_DONTWAIT) == 0) {
            ++sent;
            full = 0;
        } else {
            ++full;
            ::usleep(2000);
        }
    }
    EXPECT_LT(sent, 100000);
    EXPECT_FALSE(bad.closed(0));
    // Each is answered, once it reads.
    proto::document_piece piece;
    for (int i = 0; i < 2 * sent; ++i) {
        proto::received got;
        ASSERT_EQ(proto::receive_with_fds(bad.control.get(), &piece, sizeof piece, 0, got), 0) << i << " of " << sent;
        EXPECT_EQ(piece.head.bytes == 0, i % 2 == 1);
    }
    EXPECT_EQ(bad.ask(proto::kind::settled), "");
    EXPECT_EQ(d.faults("answers_not_read"), 0u);
}

TEST_F(bad_input, connection_of_a_closed_session_goes_on) {
    auto c = connected();
    proto::request_msg r;
    r.what = proto::kind(999);
    proto::send_with_fds(bad.control.get(), &r, sizeof r, {}, 0);
    ASSERT_TRUE(bad.closed());
    auto m = random_bytes(5000, 4);
    c.send(m);
    EXPECT_EQ(c.receive_exactly(m.size()), m);
}

}  // namespace vmsgr::test
