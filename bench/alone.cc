// vmsgrd without a keeper, for bench/keeper.py alone: vmsgrd's own objects with another keeper/worker.cc, linked before
// it. The first process does not fork, it is the worker; nobody holds copies of what it carries, and nothing is
// written into the ledger.
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "keeper/worker.hh"

namespace vmsgr::keeper {

namespace {

int orders_of_all = -1;

void pass_on(int signal) {
    const auto byte = static_cast<unsigned char>(signal);
    const ssize_t written = ::write(orders_of_all, &byte, 1);
    (void)written;
}

}  // namespace

base::result<std::optional<worker::ends>> worker::start() {
    int pipe[2], pair[2];
    if (::pipe2(pipe, O_CLOEXEC | O_NONBLOCK) != 0 ||
        ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        return std::unexpected(base::os_error("no pipe for orders"));
    }
    orders_of_all = pipe[1];
    for (int s : {SIGTERM, SIGINT}) {
        ::signal(s, pass_on);
    }
    for (int s : {SIGHUP, SIGQUIT}) {
        ::signal(s, SIG_IGN);
    }
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    // What it says to pair[0] nobody reads.
    return ends{base::unique_fd(pipe[0]), base::unique_fd(pair[1]), {}};
}

void worker::order(int) noexcept {}
void worker::kill() noexcept {}
void worker::abort(pid_t) noexcept {}
char worker::state_of(pid_t) const noexcept { return '?'; }
end_text::end_text(int) noexcept {}

}  // namespace vmsgr::keeper
