#include "proto/control_client.hh"

#include <errno.h>
#include <gtest/gtest.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <string>
#include <thread>

namespace vmsgr::proto {
namespace {

using step = attach_failure::step;

struct pair {
    base::unique_fd ours, daemon;
    pair() {
        int fds[2];
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
        ours.reset(fds[0]);
        daemon.reset(fds[1]);
    }
    void answers(uint32_t serial, int status = 0) const {
        reply_msg r;
        r.serial = serial;
        r.status = status;
        EXPECT_EQ(send_with_fds(daemon.get(), &r, sizeof r, {}, 0), 0);
    }
    int receive(uint32_t serial, reply_msg& r, int timeout_ms = 0) const {
        received got;
        return receive_reply(ours.get(), serial, base::deadline(timeout_ms), r, got);
    }
};

TEST(control_client, answers_that_came_late_are_skipped) {
    pair p;
    p.answers(3, EIO);
    p.answers(4, EIO);
    p.answers(5, ENOENT);
    reply_msg r;
    EXPECT_EQ(p.receive(5, r), 0);
    EXPECT_EQ(r.status, ENOENT);
}

TEST(control_client, late_answers_are_known_where_serials_begin_anew) {
    pair p;
    p.answers(0xffffffff);
    p.answers(0);
    reply_msg r;
    EXPECT_EQ(p.receive(0, r), 0);
    EXPECT_EQ(r.serial, 0u);
}

TEST(control_client, what_is_no_answer_is_a_broken_protocol) {
    pair ahead, odd;
    reply_msg r;
    ahead.answers(6);
    EXPECT_EQ(ahead.receive(5, r), EPROTO);
    EXPECT_EQ(send_with_fds(odd.daemon.get(), "x", 1, {}, 0), 0);
    EXPECT_EQ(odd.receive(5, r), EPROTO);
}

TEST(control_client, silence_and_hang_up_are_told_apart) {
    pair p;
    reply_msg r;
    EXPECT_EQ(p.receive(1, r, 10), ETIMEDOUT);
    p.daemon.reset();
    EXPECT_EQ(p.receive(1, r, -1), ECONNRESET);
}

// A daemon for one attach, which answers with these bytes.
class one_answer {
    std::string _path = "/tmp/vmsgr-control-client-" + std::to_string(::getpid());
    base::unique_fd _listening;
    std::thread _thread;

public:
    one_answer(const void* answer, size_t n) : _listening(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
        sockaddr_un un;
        uint32_t len = 0;
        EXPECT_EQ(unix_address(_path.c_str(), &un, len), 0);
        ::unlink(_path.c_str());
        EXPECT_EQ(::bind(_listening.get(), reinterpret_cast<sockaddr*>(&un), len), 0);
        EXPECT_EQ(::listen(_listening.get(), 1), 0);
        _thread = std::thread([this, bytes = std::string(static_cast<const char*>(answer), n)] {
            base::unique_fd c(::accept(_listening.get(), nullptr, nullptr));
            hello_msg hello;
            EXPECT_EQ(::recv(c.get(), &hello, sizeof hello, 0), ssize_t(sizeof hello));
            EXPECT_STREQ(hello.program, "me");
            EXPECT_EQ(::send(c.get(), bytes.data(), bytes.size(), 0), ssize_t(bytes.size()));
        });
    }
    ~one_answer() {
        _thread.join();
        ::unlink(_path.c_str());
    }
    std::expected<attached, attach_failure> attach() const {
        return proto::attach(_path.c_str(), {.session = session_kind::query, .program = "me", .answer_ms = 5000});
    }
};

attach_failure refused(const welcome_msg& w, size_t n = sizeof(welcome_msg)) {
    const one_answer daemon(&w, n);
    const auto a = daemon.attach();
    EXPECT_FALSE(a);
    return a ? attach_failure{} : a.error();
}

TEST(control_client, welcome_is_judged_by_version_before_its_size) {
    welcome_msg w;
    w.version = control_version + 1;
    const auto f = refused(w, 64);
    EXPECT_EQ(f.at, step::version);
    EXPECT_EQ(f.version, control_version + 1);
    w.version = control_version;
    EXPECT_EQ(refused(w, 64).at, step::nonsense);
    EXPECT_EQ(refused(w, 64).welcome_bytes, 64u);
    EXPECT_EQ(refused(w, 4).welcome_bytes, 0u);
    w.magic = 1;
    EXPECT_EQ(refused(w).at, step::nonsense);
}

TEST(control_client, refusal_brings_the_daemons_words_though_they_have_no_end) {
    welcome_msg w;
    w.status = EACCES;
    memset(w.text, 'x', sizeof w.text);
    const auto f = refused(w);
    EXPECT_EQ(f.at, step::refused);
    EXPECT_EQ(f.errnum, EACCES);
    EXPECT_EQ(std::string(f.text), std::string(sizeof w.text - 1, 'x'));
    w.status = -1;
    EXPECT_GT(refused(w).errnum, 0);
}

TEST(control_client, welcome_opens_a_session) {
    welcome_msg w;
    w.session_id = 7;
    const one_answer daemon(&w, sizeof w);
    const auto a = daemon.attach();
    ASSERT_TRUE(a);
    EXPECT_EQ(a->welcome.session_id, 7u);
}

TEST(control_client, nobody_there_is_said_with_the_errno_of_connect) {
    const auto a = attach("/nowhere/v.sock", {.session = session_kind::query, .program = "me", .answer_ms = 10});
    ASSERT_FALSE(a);
    EXPECT_EQ(a.error().at, step::reach);
    EXPECT_EQ(a.error().errnum, ENOENT);
}

}  // namespace
}  // namespace vmsgr::proto
