#include "keeper/supervisor.hh"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "daemon/journal.hh"

namespace vmsgr::daemon {

namespace {

using keeper::supervisor;
using keeper::unix_address;

// A service manager, or a journal: a datagram socket with an abstract name of its own.
class reader {
    base::unique_fd _fd;
    std::string _name;

public:
    reader() : _fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
        static int made = 0;
        _name = "@vmsgr-supervisor-test-" + std::to_string(::getpid()) + "-" + std::to_string(++made);
        sockaddr_un un;
        const socklen_t bytes = unix_address(_name, un);
        EXPECT_EQ(::bind(_fd.get(), reinterpret_cast<const sockaddr*>(&un), bytes), 0);
    }
    const std::string& name() const { return _name; }
    // Empty: nothing is there.
    std::string next() {
        char text[4096];
        const ssize_t n = ::recv(_fd.get(), text, sizeof text, 0);
        return n < 0 ? "" : std::string(text, size_t(n));
    }
};

supervisor started(const std::string& socket, const char* interval = "", const char* pid = "") {
    ::setenv("NOTIFY_SOCKET", socket.c_str(), 1);
    ::setenv("WATCHDOG_USEC", interval, 1);
    ::setenv("WATCHDOG_PID", pid, 1);
    return supervisor::from_environment();
}

}  // namespace

TEST(supervisor, says_nothing_without_a_manager) {
    ::unsetenv("NOTIFY_SOCKET");
    auto s = supervisor::from_environment();
    EXPECT_TRUE(s.ready("fine"));
    EXPECT_TRUE(s.stopping());
    EXPECT_EQ(s.watchdog().count(), 0);
}

TEST(supervisor, tells_its_states) {
    reader manager;
    auto s = started(manager.name());
    EXPECT_TRUE(s.ready("2 shards"));
    EXPECT_EQ(manager.next(), "READY=1\nSTATUS=2 shards");
    EXPECT_TRUE(s.reloading());
    EXPECT_TRUE(manager.next().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    EXPECT_TRUE(s.stopping());
    EXPECT_TRUE(manager.next().starts_with("STOPPING=1\n"));
    s.alive();
    EXPECT_EQ(manager.next(), "WATCHDOG=1");
}

TEST(supervisor, leaves_no_trace_for_programs_that_it_starts) {
    reader manager;
    started(manager.name(), "1000000");
    for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) {
        EXPECT_EQ(::getenv(name), nullptr) << name;
    }
}

TEST(supervisor, watchdog_is_for_the_process_that_is_named) {
    reader manager;
    EXPECT_EQ(started(manager.name(), "3000000").watchdog().count(), 3000000);
    EXPECT_EQ(started(manager.name(), "3000000", std::to_string(::getpid()).c_str()).watchdog().count(), 3000000);
    EXPECT_EQ(started(manager.name(), "3000000", "1").watchdog().count(), 0);
    EXPECT_EQ(started(manager.name(), "3 s").watchdog().count(), 0);
}

TEST(supervisor, does_not_wait_long_for_a_manager_that_does_not_read) {
    reader manager;
    auto s = started(manager.name());
    int taken = 0;
    while (s.ready("x")) {
        ASSERT_LT(++taken, 100000);
    }
    EXPECT_GT(taken, 0);
    s.alive();  // waits even less
}

TEST(supervisor, wrong_addresses_are_none) {
    for (const std::string& text : {std::string(), std::string("relative"), std::string("@"), std::string(200, '/')}) {
        sockaddr_un un;
        EXPECT_EQ(unix_address(text, un), 0u) << text;
    }
}

TEST(journal, reads_a_line_of_seastar) {
    const auto line = read_log_line("WARN  [shard  1:main] vmsgr.trunk - peer a - gone\n");
    EXPECT_EQ(line.priority, 4);
    EXPECT_EQ(line.shard, "1");
    EXPECT_EQ(line.part, "vmsgr.trunk");
    EXPECT_EQ(line.text, "peer a - gone");
}

TEST(journal, takes_any_other_line_as_it_is) {
    for (const char* text : {"", "text", "INFO without an end", "ERROR", " - "}) {
        const auto line = read_log_line(text);
        EXPECT_EQ(line.text, text);
        EXPECT_EQ(line.priority, 6);
    }
}

TEST(journal, entry_has_its_fields) {
    EXPECT_EQ(journal_entry({3, "0", "vmsgrd", "text"}, 0),
              "PRIORITY=3\nSYSLOG_IDENTIFIER=vmsgrd\nMESSAGE=text\nVMSGR_SHARD=0\nVMSGR_PART=vmsgrd\n");
    EXPECT_EQ(journal_entry({6, "", "", "text"}, 7),
              "PRIORITY=6\nSYSLOG_IDENTIFIER=vmsgrd\nMESSAGE=text\nVMSGR_DROPPED=7\n");
}

TEST(journal, text_of_several_lines_stays_one_field) {
    const std::string entry = journal_entry({6, "", "", "one\nPRIORITY=0"}, 0);
    const std::string eight("\x0e\0\0\0\0\0\0\0", 8);
    EXPECT_NE(entry.find("MESSAGE\n" + eight + "one\nPRIORITY=0\n"), entry.npos);
}

TEST(journal, counts_what_the_journal_does_not_take) {
    reader there;
    journal j(there.name().c_str());
    ASSERT_TRUE(j.connected());
    int sent = 0;
    for (; sent < 100000; ++sent) {  // more than any queue holds
        j.out().write("INFO  [shard 0:main] vmsgrd - a\n", 32);
    }
    int came = 0;
    while (!there.next().empty()) {
        ++came;
    }
    ASSERT_LT(came, sent);
    j.out().write("INFO  [shard 0:main] vmsgrd - b\n", 32);
    EXPECT_NE(there.next().find(
                  "MESSAGE=b\nVMSGR_SHARD=0\nVMSGR_PART=vmsgrd\nVMSGR_DROPPED=" + std::to_string(sent - came) + "\n"),
              std::string::npos);
}

TEST(journal, is_wanted_where_stderr_is_its_stream) {
    ::unsetenv("JOURNAL_STREAM");
    EXPECT_FALSE(journal::wanted());
    struct stat st{};
    ASSERT_EQ(::fstat(STDERR_FILENO, &st), 0);
    ::setenv("JOURNAL_STREAM", (std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino)).c_str(), 1);
    EXPECT_TRUE(journal::wanted());
    ::setenv("JOURNAL_STREAM", (std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino + 1)).c_str(), 1);
    EXPECT_FALSE(journal::wanted());
    ::unsetenv("JOURNAL_STREAM");
}

}  // namespace vmsgr::daemon
