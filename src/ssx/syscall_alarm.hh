// Ends a system call that should not have waited. Some calls (accept) take no "do not wait" of their own, only the
// socket's O_NONBLOCK, which a program that shares the socket can take away at the worst moment. A guarded call that
// waits all the same is interrupted by a signal after a moment and fails with EINTR.
//
// Owner: one per shard, started on it.
#pragma once

#include <signal.h>
#include <time.h>

#include <optional>

namespace vmsgr::ssx {

class syscall_alarm {
    std::optional<timer_t> _timer;

public:
    syscall_alarm() = default;
    syscall_alarm(const syscall_alarm&) = delete;
    ~syscall_alarm() { stop(); }
    // Throws std::system_error. Takes SIGRTMAX - 1 for itself.
    void start();
    void stop() noexcept;

    // Calls f(), which is interrupted if it takes longer than interval_ms. errno stays f's.
    template <typename Func>
    auto guard(Func&& f) noexcept {
        arm(interval_ms);
        auto result = f();
        disarm();
        return result;
    }

private:
    static constexpr long interval_ms = 1;
    void arm(long ms) noexcept;
    void disarm() noexcept;
};

}  // namespace vmsgr::ssx
