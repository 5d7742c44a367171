#include "keeper/custody.hh"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "keeper/ledger_share.hh"

namespace vmsgr::keeper {

namespace {

struct custody_of_two_shards : testing::Test {
    custody keeper = std::move(*custody::make(8));
    base::unique_fd ours, theirs;
    ledger_share share;

    void SetUp() override {
        int pair[2];
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        ours.reset(pair[0]);
        theirs.reset(pair[1]);
        share = ledger_share(keeper.ledger(), {}, 1, 2, theirs.get());
    }
    // Three descriptors of which the other end shows when the last copy is closed.
    struct watched {
        base::unique_fd end, other;
        watched() {
            int pair[2];
            EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
            end.reset(pair[0]);
            other.reset(pair[1]);
        }
        bool held() const {
            pollfd p{other.get(), 0, 0};
            return ::poll(&p, 1, 0) == 0;
        }
    };
    entry* give(const watched& w) {
        entry* e = share.take(entry_kind::connection);
        const int fds[] = {w.end.get(), w.end.get(), w.end.get()};
        EXPECT_TRUE(e != nullptr && share.give(*e, fds));
        return e;
    }
};

}  // namespace

TEST_F(custody_of_two_shards, keeps_what_its_worker_has_lost) {
    watched w;
    entry* e = give(w);
    EXPECT_EQ(e - keeper.ledger().data(), 1) << "the first of the second shard";
    w.end.reset();
    keeper.receive(ours.get(), 100, true);
    EXPECT_TRUE(w.held());
    ASSERT_EQ(keeper.held().size(), 2u);
    EXPECT_NE(keeper.held()[1], none_kept);
}

TEST_F(custody_of_two_shards, gives_back_what_it_is_asked_for) {
    watched w;
    entry* e = give(w);
    keeper.receive(ours.get(), 100, true);
    share.ask_back(*e);
    EXPECT_FALSE(share.is_back(*e));
    keeper.receive(ours.get(), 100, true);
    EXPECT_TRUE(share.is_back(*e));
    EXPECT_TRUE(w.held()) << "the worker's copy";
    w.end.reset();
    EXPECT_FALSE(w.held());
    share.leave(*e);
    EXPECT_FALSE(share.has_work());
    EXPECT_EQ(e->state.load(), entry_free);
}

TEST_F(custody_of_two_shards, what_a_dead_worker_asked_for_stays) {
    watched w;
    entry* e = give(w);
    share.ask_back(*e);
    w.end.reset();
    keeper.receive(ours.get(), 100, false);
    EXPECT_TRUE(w.held()) << "else the keeper's close would be the last";
    ledger_share next(keeper.ledger(), keeper.held(), 1, 2, theirs.get());
    for (int i = 0; i < 3; ++i) {
        EXPECT_NE(next.take(entry_kind::connection), e);
    }
    EXPECT_EQ(next.take(entry_kind::connection), nullptr);
    next.leave(*e);
    keeper.receive(ours.get(), 100, true);
    next.tick();
    EXPECT_EQ(e->state.load(), entry_free) << "asked again";
    EXPECT_FALSE(w.held());
}

TEST_F(custody_of_two_shards, fewer_descriptors_than_said_are_none) {
    watched w;
    entry* e = share.take(entry_kind::listener);
    const int fds[] = {w.end.get()};
    EXPECT_TRUE(share.give(*e, fds));
    keeper.receive(ours.get(), 100, true);
    EXPECT_EQ(keeper.held()[1], (kept{keeper.held()[1][0], -1, -1}));
    EXPECT_GE(keeper.held()[1][0], 0);
    const custody_message wrong{entry_kept, 5, 1};
    ASSERT_GT(::send(theirs.get(), &wrong, sizeof wrong, 0), 0);
    keeper.receive(ours.get(), 100, true);
    EXPECT_TRUE(keeper.held().size() == 2 || keeper.held()[5] == none_kept);
}

TEST_F(custody_of_two_shards, nonsense_is_nothing) {
    const custody_message far{entry_kept, 1'000'000, 0}, none{entry_kept, 0, 3};
    ASSERT_GT(::send(theirs.get(), &far, sizeof far, 0), 0);
    ASSERT_GT(::send(theirs.get(), &none, sizeof none, 0), 0);
    ASSERT_GT(::send(theirs.get(), "x", 1, 0), 0);
    keeper.receive(ours.get(), 100, true);
    for (const auto& k : keeper.held()) {
        EXPECT_EQ(k, none_kept);
    }
}

TEST_F(custody_of_two_shards, a_full_channel_is_no_loss) {
    watched w;
    entry* e = give(w);
    keeper.receive(ours.get(), 100, true);
    const custody_message noise{entry_kept, 1'000'000, 0};
    while (::send(theirs.get(), &noise, sizeof noise, MSG_DONTWAIT) > 0) {
    }
    entry* other = share.take(entry_kind::connection);
    const int fds[] = {w.end.get(), w.end.get(), w.end.get()};
    EXPECT_FALSE(share.give(*other, fds));
    share.ask_back(*e);
    EXPECT_TRUE(share.has_work());
    while (keeper.receive(ours.get(), 100, true)) {
    }
    share.tick();
    keeper.receive(ours.get(), 100, true);
    EXPECT_TRUE(share.is_back(*e));
    share.leave(*e);
    EXPECT_FALSE(share.has_work());
}

}  // namespace vmsgr::keeper
