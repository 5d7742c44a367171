#include "cli/spawned.hh"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "base/clock.hh"
#include "base/unique_fd.hh"

namespace vmsgr::cli {

namespace {

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
bool read_both(const pipe_pair (&from)[2], std::string* const (&into)[2], const base::deadline& until) {
    pollfd p[2] = {{from[0].read.get(), POLLIN, 0}, {from[1].read.get(), POLLIN, 0}};
    while (p[0].fd >= 0 || p[1].fd >= 0) {
        if (::poll(p, 2, until.left_ms()) <= 0 && until.left_ms() == 0) {
            return false;
        }
        for (int i = 0; i < 2; ++i) {
            char piece[4096];
            const ssize_t n = p[i].fd >= 0 && p[i].revents != 0 ? ::read(p[i].fd, piece, sizeof piece) : -1;
            if (n == 0 || into[i]->size() > spawned_bytes_max) {
                p[i].fd = -1;
            } else if (n > 0) {
                into[i]->append(piece, size_t(n));
            }
        }
    }
    return true;
}

}  // namespace

bool spawned::succeeded() const noexcept { return in_time && WIFEXITED(status) && WEXITSTATUS(status) == 0; }

base::result<spawned> run_to_end(std::vector<std::string> words, int timeout_ms, std::vector<std::string> variables) {
    auto argv = pointers(words), envp = pointers(variables);
    pipe_pair pipes[2];
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions, pipes[0].write.get(), STDOUT_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, pipes[1].write.get(), STDERR_FILENO);
    pid_t child = 0;
    const int e = ::posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(),
                                 variables.empty() ? environ : envp.data());
    ::posix_spawn_file_actions_destroy(&actions);
    if (e != 0) {
        return base::fail(e, words.front() + ": " + strerror(e));
    }
    pipes[0].write.reset();
    pipes[1].write.reset();
    spawned done;
    std::string* const texts[] = {&done.out, &done.err};
    done.in_time = read_both(pipes, texts, base::deadline(timeout_ms));
    if (!done.in_time) {
        ::kill(child, SIGKILL);
    }
    while (::waitpid(child, &done.status, 0) < 0 && errno == EINTR) {
    }
    done.err.resize(done.err.find_last_not_of('\n') + 1);
    return done;
}

}  // namespace vmsgr::cli
