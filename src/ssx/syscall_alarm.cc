#include "ssx/syscall_alarm.hh"

#include <errno.h>
#include <unistd.h>

#include <system_error>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

namespace vmsgr::ssx {

namespace {

int alarm_signal() { return SIGRTMAX - 1; }

void check(bool failed, const char* what) {
    if (failed) {
        throw std::system_error(errno, std::generic_category(), what);
    }
}

}  // namespace

void syscall_alarm::start() {
    struct sigaction action{};
    action.sa_handler = [](int) {};  // without SA_RESTART: the call fails with EINTR
    check(::sigaction(alarm_signal(), &action, nullptr) != 0, "sigaction");
    sigset_t ours;
    ::sigemptyset(&ours);
    ::sigaddset(&ours, alarm_signal());
    ::pthread_sigmask(SIG_UNBLOCK, &ours, nullptr);  // Seastar's threads block nearly all signals
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = alarm_signal();
    event.sigev_notify_thread_id = ::gettid();
    timer_t timer;
    check(::timer_create(CLOCK_MONOTONIC, &event, &timer) != 0, "timer_create");
    _timer = timer;
}

void syscall_alarm::stop() noexcept {
    if (_timer) {
        ::timer_delete(*_timer);
        _timer.reset();
    }
}

// Repeats, as the first signal may come just before the call begins to wait.
void syscall_alarm::arm(long ms) noexcept {
    timespec t{ms / 1000, ms % 1000 * 1'000'000};
    itimerspec every{t, t};
    if (_timer) {
        ::timer_settime(*_timer, 0, &every, nullptr);
    }
}

void syscall_alarm::disarm() noexcept {
    int err = errno;
    itimerspec never{};
    if (_timer) {
        ::timer_settime(*_timer, 0, &never, nullptr);
    }
    errno = err;
}

}  // namespace vmsgr::ssx
