// The handshake and its refusals.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon_process.hh"
#include "proto/routes.hh"
#include "test_client.hh"

namespace vmsgr::test {

namespace {

proto::welcome_msg answer_to(const daemon_process& d, const void* hello, size_t n) {
    auto s = connect_control(d.socket());
    proto::send_with_fds(s.get(), hello, n, {}, 0);
    proto::welcome_msg w{.status = -1};
    proto::received got;
    pollfd p{s.get(), POLLIN, 0};
    ::poll(&p, 1, 1000);
    proto::receive_with_fds(s.get(), &w, sizeof w, MSG_DONTWAIT, got);
    return w;
}

}  // namespace

TEST(attach, welcome_brings_the_session_segment) {
    daemon_process d;
    client c(d.socket());
    EXPECT_EQ(c.welcome.status, 0);
    ASSERT_TRUE(c.segment);
    EXPECT_EQ(c.jobs().magic, shm::session_magic);
    EXPECT_EQ(c.jobs().session_id, c.welcome.session_id);
    auto doc = d.status();
    ASSERT_EQ(doc["sessions"].size(), 1u);
    EXPECT_EQ(doc["sessions"][0]["pid"], ::getpid());
    EXPECT_EQ(doc["sessions"][0]["program"], "component-test");
    EXPECT_EQ(doc["daemon"]["pid"], d.pid());
    EXPECT_EQ(doc["daemon"]["shards"], 2);
    EXPECT_EQ(doc["totals"]["faults"], 0);
}

TEST(attach, routes_are_told) {
    daemon_process d;
    client c(d.socket(), proto::session_kind::query);
    proto::route_table t;
    auto text = c.ask(proto::kind::routes);
    ASSERT_TRUE(proto::parse_routes(text, t)) << text;
    EXPECT_EQ(t.count, 1u);
}

TEST(attach, other_version_is_refused_and_both_are_named) {
    daemon_process d;
    proto::hello_msg hello;
    hello.version = 77;
    auto w = answer_to(d, &hello, sizeof hello);
    EXPECT_EQ(w.status, EPROTO);
    EXPECT_NE(std::string(w.text).find("version 77"), std::string::npos) << w.text;
    EXPECT_NE(std::string(w.text).find("version 4 "), std::string::npos) << w.text;
}

TEST(attach, unlisted_user_is_refused) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "needs root, to become another user";
    }
    daemon_process d(std::string(daemon_process::all_direct) +
                     "access:\n  mode: 0666\n  uids: [daemon]\n  gids: [games]\n");
    auto as = [&](uid_t uid, gid_t gid) {
        EXPECT_EQ(::setegid(gid), 0);
        EXPECT_EQ(::seteuid(uid), 0);
        client c(d.socket(), proto::session_kind::query);
        EXPECT_EQ(::seteuid(0), 0);
        EXPECT_EQ(::setegid(0), 0);
        return c.welcome.status;
    };
    ::chmod(d.folder().c_str(), 0755);
    EXPECT_EQ(as(1, 1), 0) << "the listed user";
    EXPECT_EQ(as(65534, 60), 0) << "the listed group";
    EXPECT_EQ(as(65534, 65534), EACCES);
}

TEST(attach, silent_client_is_dropped_after_two_seconds) {
    daemon_process d;
    auto s = connect_control(d.socket());
    pollfd p{s.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&p, 1, 1500), 0);
    EXPECT_EQ(::poll(&p, 1, 1500), 1);
    EXPECT_NE(p.revents & POLLHUP, 0);
    EXPECT_EQ(d.faults("bad_hello"), 1u);
}

TEST(attach, sessions_beyond_the_limit_are_refused_with_its_name) {
    daemon_process d(std::string(daemon_process::all_direct) + "limits:\n  sessions: 3\n");
    client a(d.socket()), b(d.socket()), c(d.socket());
    client e(d.socket());
    EXPECT_EQ(e.welcome.status, EAGAIN);
    EXPECT_NE(std::string(e.welcome.text).find("limits.sessions"), std::string::npos) << e.welcome.text;
}

}  // namespace vmsgr::test
