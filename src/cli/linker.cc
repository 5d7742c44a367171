#include "cli/linker.hh"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.hh"
#include "base/unique_fd.hh"

namespace vmsgr::cli {

namespace {

constexpr int linker_timeout_ms = 10'000;
constexpr size_t answer_bytes_max = 1 << 20;

bool is_trusted(const std::string& file) {
    struct stat st;
    return ::stat(file.c_str(), &st) == 0 && S_ISREG(st.st_mode) && (st.st_uid == 0 || st.st_uid == ::geteuid()) &&
           (st.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

std::vector<std::string> environment_with(const std::string& preload) {
    std::vector<std::string> out;
    for (char** e = environ; *e != nullptr; ++e) {
        if (strncmp(*e, "LD_PRELOAD=", strlen("LD_PRELOAD=")) != 0 && strncmp(*e, "LD_TRACE", 8) != 0) {
            out.emplace_back(*e);
        }
    }
    out.push_back("LD_PRELOAD=" + preload);
    return out;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
    std::vector<char*> out;
    for (auto& w : words) {
        out.push_back(w.data());
    }
    out.push_back(nullptr);
    return out;
}

struct pipe_pair {
    base::unique_fd read, write;
    pipe_pair() {
        int fds[2];
        if (::pipe2(fds, O_CLOEXEC) == 0) {
            read = base::unique_fd(fds[0]);
            write = base::unique_fd(fds[1]);
        }
    }
};

// Both to their end, or until the time is up. False: it was.
bool read_both(const pipe_pair (&from)[2], std::string (&into)[2]) {
    const base::deadline until(linker_timeout_ms);
    pollfd p[2] = {{from[0].read.get(), POLLIN, 0}, {from[1].read.get(), POLLIN, 0}};
    while (p[0].fd >= 0 || p[1].fd >= 0) {
        if (::poll(p, 2, until.left_ms()) <= 0 && until.left_ms() == 0) {
            return false;
        }
        for (int i = 0; i < 2; ++i) {
            char piece[4096];
            const ssize_t n = p[i].fd >= 0 && p[i].revents != 0 ? ::read(p[i].fd, piece, sizeof piece) : -1;
            if (n == 0 || into[i].size() > answer_bytes_max) {
                p[i].fd = -1;
            } else if (n > 0) {
                into[i].append(piece, size_t(n));
            }
        }
    }
    return true;
}

// "\tlibz.so.1 => /lib/libz.so.1 (0x...)", or a path alone.
std::vector<std::string> objects_in(const std::string& text) {
    std::vector<std::string> out;
    for (size_t at = 0; at < text.size();) {
        const auto line = std::string_view(text).substr(at, text.find('\n', at) - at);
        at += line.size() + 1;
        const size_t first = line.find('/'), end = line.rfind(" (0x");
        if (first != line.npos && end != line.npos && first < end) {
            const size_t arrow = line.find(" => ");
            const size_t from = arrow != line.npos ? arrow + strlen(" => ") : first;
            out.emplace_back(line.substr(from, end - from));
        }
    }
    return out;
}

}  // namespace

linked ask_linker(const std::string& linker, const std::string& program, const std::string& preload) {
    linked out;
    if (!is_trusted(linker)) {
        out.complaint = linker + " is not there, or others may write to it, so it was not asked";
        return out;
    }
    std::vector<std::string> words{linker, "--list", program}, variables = environment_with(preload);
    auto argv = pointers(words), envp = pointers(variables);
    pipe_pair pipes[2];
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions, pipes[0].write.get(), STDOUT_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, pipes[1].write.get(), STDERR_FILENO);
    pid_t child = 0;
    const int e = ::posix_spawn(&child, linker.c_str(), &actions, nullptr, argv.data(), envp.data());
    ::posix_spawn_file_actions_destroy(&actions);
    if (e != 0) {
        out.complaint = linker + ": " + strerror(e);
        return out;
    }
    pipes[0].write.reset();
    pipes[1].write.reset();
    std::string texts[2];
    const bool in_time = read_both(pipes, texts);
    if (!in_time) {
        ::kill(child, SIGKILL);
    }
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    out.objects = objects_in(texts[0]);
    out.complaint = in_time ? texts[1] : linker + " gave no answer";
    out.complaint.resize(out.complaint.find_last_not_of('\n') + 1);
    out.starts = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    return out;
}

}  // namespace vmsgr::cli
