// What vmsgrd says when something is wrong: one line, the cause and the next step, and nothing half started.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "daemon_process.hh"
#include "test_client.hh"

namespace vmsgr::test {

namespace {

bool one_line(const std::string& s) { return std::ranges::count(s, '\n') == 1 && s.starts_with("vmsgrd: "); }

}  // namespace

TEST(command_line, version_and_help) {
    auto v = run({"vmsgrd", "--version"});
    EXPECT_EQ(v.exit_code, 0);
    EXPECT_EQ(v.out, "vmsgrd " + std::string(proto::version_text) + "\n");
    EXPECT_EQ(run({"vmsgrd", "--help"}).exit_code, 0);
}

TEST(command_line, unknown_option) {
    auto r = run({"vmsgrd", "--frobnicate"});
    EXPECT_EQ(r.exit_code, 2);
    EXPECT_TRUE(one_line(r.err)) << r.err;
}

TEST(command_line, missing_and_broken_configuration) {
    auto missing = run({"vmsgrd", "--config", "/nonexistent/vmsgrd.yaml"});
    EXPECT_EQ(missing.exit_code, 2);
    EXPECT_TRUE(one_line(missing.err)) << missing.err;
    daemon_process d;
    std::string path = d.folder() + "/bad.yaml";
    std::ofstream(path) << "shards: many\n";
    auto broken = run({"vmsgrd", "--check-config", "--config", path});
    EXPECT_EQ(broken.exit_code, 2);
    EXPECT_TRUE(one_line(broken.err)) << broken.err;
    EXPECT_NE(broken.err.find("bad.yaml:1"), std::string::npos) << broken.err;
    auto good = run({"vmsgrd", "--check-config", "--config", d.folder() + "/vmsgrd.yaml"});
    EXPECT_EQ(good.exit_code, 0) << good.err;
}

TEST(command_line, second_daemon_names_the_first) {
    daemon_process d;
    auto second = run({"vmsgrd", "--config", d.folder() + "/vmsgrd.yaml"});
    EXPECT_EQ(second.exit_code, 1);
    EXPECT_TRUE(one_line(second.err)) << second.err;
    EXPECT_NE(second.err.find("pid " + std::to_string(d.pid())), std::string::npos) << second.err;
    EXPECT_EQ(d.status()["daemon"]["pid"], d.pid()) << "the first goes on";
}

TEST(command_line, file_in_the_place_of_the_socket_is_left_alone) {
    daemon_process d;
    std::string file = d.folder() + "/precious", config = d.folder() + "/c.yaml";
    std::ofstream(file) << "data";
    std::ofstream(config) << "socket: " << file << "\nshards: 1\n";
    auto r = run({"vmsgrd", "--config", config});
    EXPECT_EQ(r.exit_code, 1);
    EXPECT_TRUE(one_line(r.err)) << r.err;
    EXPECT_EQ(::access(file.c_str(), F_OK), 0);
}

TEST(command_line, socket_in_an_impossible_place) {
    daemon_process d;
    std::string config = d.folder() + "/c.yaml";
    std::ofstream(config) << "socket: /proc/nowhere/vmsgrd.sock\nshards: 1\n";
    auto r = run({"vmsgrd", "--config", config});
    EXPECT_EQ(r.exit_code, 1);
    EXPECT_TRUE(one_line(r.err)) << r.err;
}

TEST(command_line, more_shards_than_processors) {
    daemon_process d;
    std::string config = d.folder() + "/c.yaml";
    std::ofstream(config) << "socket: " << d.folder() << "/other.sock\nshards: 256\nmemory: 16G\n";
    auto r = run({"vmsgrd", "--config", config});
    if (r.exit_code == 0) {
        GTEST_SKIP() << "a machine with 256 processors";
    }
    EXPECT_TRUE(one_line(r.err)) << r.err;
    EXPECT_NE(::access((d.folder() + "/other.sock").c_str(), F_OK), 0) << "nothing half started";
}

TEST(command_line, stale_socket_of_a_killed_daemon_is_replaced) {
    daemon_process d;
    std::string path = d.folder() + "/stale.sock", config = d.folder() + "/c.yaml";
    {
        base::unique_fd s(::socket(AF_UNIX, SOCK_SEQPACKET, 0));
        sockaddr_un un;
        uint32_t len = 0;
        proto::unix_address(path.c_str(), &un, len);
        ASSERT_EQ(::bind(s.get(), reinterpret_cast<sockaddr*>(&un), len), 0);
    }
    std::ofstream(config) << "socket: " << path << "\nshards: 1\n";
    pid_t child = ::fork();
    if (child == 0) {
        ::execl(binary("vmsgrd").c_str(), "vmsgrd", "--config", config.c_str(), nullptr);
        ::_exit(127);
    }
    bool up = false;
    for (int i = 0; i < 500 && !up; ++i) {
        try {
            up = client(path, proto::session_kind::query).welcome.status == 0;
        } catch (const std::exception&) {
            ::usleep(10000);
        }
    }
    EXPECT_TRUE(up);
    struct stat st;
    EXPECT_EQ(::stat(path.c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 0777, 0660u);
    ::kill(child, SIGTERM);
    ::waitpid(child, nullptr, 0);
}

}  // namespace vmsgr::test
