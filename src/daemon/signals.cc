#include "daemon/signals.hh"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "keeper/worker.hh"

namespace vmsgr::daemon {

namespace {

constexpr int killed_exit = 1;

}  // namespace

base::result<std::unique_ptr<signals>> signals::start(base::unique_fd orders, std::chrono::milliseconds limit) {
    base::unique_fd over(::eventfd(0, EFD_CLOEXEC));
    if (!over) {
        return std::unexpected(base::os_error("no descriptor for signals"));
    }
    return std::unique_ptr<signals>(new signals(limit, std::move(orders), std::move(over)));
}

signals::signals(std::chrono::milliseconds limit, base::unique_fd orders, base::unique_fd over)
    : _limit(limit), _orders(std::move(orders)), _over(std::move(over)), _thread([this] { run(); }) {}

signals::~signals() {
    const uint64_t one = 1;
    if (::write(_over.get(), &one, sizeof one) == sizeof one) {
        _thread.join();
    } else {
        _thread.detach();
    }
}

void signals::begin(receivers to) {
    std::lock_guard l(_lock);
    _to = std::move(to);
    if (_stop_asked) {
        _to.stop();
    }
}

void signals::end() noexcept {
    std::lock_guard l(_lock);
    _to = {};
}

void signals::run() {
    using clock = std::chrono::steady_clock;
    std::optional<clock::time_point> until;
    for (;;) {
        int wait_ms = -1;
        if (until) {
            const auto left = std::chrono::ceil<std::chrono::milliseconds>(*until - clock::now());
            wait_ms = int(std::max<int64_t>(left.count(), 0));
        }
        pollfd fds[] = {{_orders.get(), POLLIN, 0}, {_over.get(), POLLIN, 0}};
        const int n = ::poll(fds, std::size(fds), wait_ms);
        if (n > 0 && fds[1].revents != 0) {
            return;
        }
        if (until && clock::now() >= *until) {
            end_now("it has not stopped within the limit, so a shard is stuck");
        }
        unsigned char signal = 0;
        ssize_t got = 0;
        while ((got = ::read(_orders.get(), &signal, 1)) == 1) {
            take(signal);
            if (!until && _stop_asked) {
                until = clock::now() + _limit.load();
            }
        }
        if (got == 0) {
            end_now("its keeper has ended");
        }
    }
}

void signals::take(int signal) {
    if (signal == SIGQUIT) {
        end_now("SIGQUIT");
    }
    std::lock_guard l(_lock);
    if (signal == SIGHUP || signal == keeper::order_hand_over) {
        const auto& receiver = signal == SIGHUP ? _to.reload : _to.hand_over;
        if (receiver) {
            receiver();
        }
        return;
    }
    if (_stop_asked) {
        end_now("a second signal to stop");
    }
    _stop_asked = true;
    if (_to.stop) {
        _to.stop();
    }
}

void signals::end_now(const char* why) noexcept {
    char text[128];
    const int n = snprintf(text, sizeof text, "vmsgrd: ends at once: %s\n", why);
    if (::write(STDERR_FILENO, text, size_t(n)) < 0) {
        // Nobody reads it.
    }
    ::_exit(killed_exit);
}

}  // namespace vmsgr::daemon
