#include "keeper/worker.hh"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/process.hh"

namespace vmsgr::keeper {

namespace {

constexpr int custody_buffer_bytes = 1 << 20;

// The signals of people are the keeper's, which passes them on as orders: one that is sent to the whole group, or to
// all processes of a service, does not count twice.
void take_no_signals() noexcept {
    for (int s : {SIGTERM, SIGINT, SIGHUP, SIGQUIT}) {
        ::signal(s, SIG_IGN);
    }
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

}  // namespace

base::result<std::optional<worker::ends>> worker::start() {
    int pipe[2], pair[2];
    if (::pipe2(pipe, O_CLOEXEC | O_NONBLOCK) != 0) {
        return std::unexpected(base::os_error("pipe"));
    }
    base::unique_fd theirs(pipe[0]), ours(pipe[1]);
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        return std::unexpected(base::os_error("socketpair"));
    }
    base::unique_fd heard(pair[0]), said(pair[1]);
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        return std::unexpected(base::os_error("socketpair"));
    }
    base::unique_fd takes(pair[0]), gives(pair[1]);
    ::setsockopt(gives.get(), SOL_SOCKET, SO_SNDBUF, &custody_buffer_bytes, sizeof custody_buffer_bytes);
    const pid_t keeper = ::getpid();
    const auto pid = base::fork_process();
    if (!pid) {
        return std::unexpected(pid.error());
    }
    if (*pid == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != keeper) {
            ::_exit(1);  // it ended before that was set
        }
        ::prctl(PR_SET_NAME, "vmsgrd-worker");
        take_no_signals();
        return ends{std::move(theirs), std::move(said), std::move(gives)};
    }
    _pid = *pid;
    _orders = std::move(ours);
    _words = std::move(heard);
    _custody = std::move(takes);
    return std::nullopt;
}

void worker::order(int signal) noexcept {
    const auto byte = static_cast<unsigned char>(signal);
    const ssize_t written = ::write(_orders.get(), &byte, 1);
    (void)written;  // it has ended, or has not taken thousands of them
}

void worker::kill() noexcept {
    if (runs()) {
        ::kill(_pid, SIGKILL);
    }
}

void worker::abort(pid_t thread) noexcept {
    if (runs() && thread > 0) {
        ::syscall(SYS_tgkill, _pid, thread, SIGABRT);
    }
}

char worker::state_of(pid_t thread) const noexcept {
    char text[512];
    return base::state_in(base::read_of_thread(_pid, uint64_t(thread), "stat", text));
}

end_text::end_text(int status) noexcept {
    if (WIFSIGNALED(status)) {
        const char* name = ::sigabbrev_np(WTERMSIG(status));
        snprintf(_text.data(), _text.size(), "was killed by SIG%s", name != nullptr ? name : "?");
    } else {
        snprintf(_text.data(), _text.size(), "exited with %d", WEXITSTATUS(status));
    }
}

}  // namespace vmsgr::keeper
