#include "base/signal_lock.hh"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

namespace vmsgr::base {
namespace {

constinit signal_lock lock;
std::atomic<int> handled{0};

void take_it(int) {
    std::lock_guard l(lock);
    ++handled;
}

// ThreadSanitizer runs handlers when it likes to, whatever the kernel's mask says.
#ifdef __SANITIZE_THREAD__
constexpr bool handlers_are_the_kernels = false;
#else
constexpr bool handlers_are_the_kernels = true;
#endif

struct handler {
    struct sigaction before;
    handler() {
        struct sigaction a{};
        a.sa_handler = take_it;
        ::sigaction(SIGUSR1, &a, &before);
        handled = 0;
    }
    ~handler() { ::sigaction(SIGUSR1, &before, nullptr); }
};

bool blocked(int signal) {
    sigset_t now;
    ::pthread_sigmask(SIG_SETMASK, nullptr, &now);
    return ::sigismember(&now, signal) == 1;
}

TEST(signal_lock, handler_that_takes_it_waits_until_its_own_thread_is_out) {
    if (!handlers_are_the_kernels) {
        GTEST_SKIP();
    }
    handler h;
    ::alarm(10);  // a lock that waits for itself does so for ever
    {
        std::lock_guard l(lock);
        ::raise(SIGUSR1);
        EXPECT_EQ(handled, 0);
    }
    EXPECT_EQ(handled, 1);
    ::alarm(0);
}

TEST(signal_lock, leaves_the_mask_and_errno_as_they_were) {
    sigset_t one, before;
    ::sigemptyset(&one);
    ::sigaddset(&one, SIGUSR2);
    ::pthread_sigmask(SIG_BLOCK, &one, &before);
    errno = EXDEV;
    lock.lock();
    EXPECT_TRUE(blocked(SIGUSR1) && blocked(SIGUSR2));
    lock.unlock();
    EXPECT_EQ(errno, EXDEV);
    EXPECT_FALSE(blocked(SIGUSR1));
    EXPECT_TRUE(blocked(SIGUSR2));
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST(signal_lock, one_inside_another_gives_the_mask_back) {
    signal_lock inner;
    {
        std::lock_guard a(lock);
        std::lock_guard b(inner);
    }
    EXPECT_FALSE(blocked(SIGUSR1));
}

TEST(signal_lock, signals_stay_blocked_from_one_lock_to_the_next) {
    signal_lock inner;
    {
        signals_blocked together;
        EXPECT_TRUE(blocked(SIGUSR1));
        {
            std::lock_guard l(lock);
        }
        EXPECT_TRUE(blocked(SIGUSR1));
        {
            std::lock_guard l(inner);
        }
        EXPECT_TRUE(blocked(SIGUSR1));
    }
    EXPECT_FALSE(blocked(SIGUSR1));
}

TEST(signal_lock, excludes_other_threads_whatever_signals_come) {
    handler h;
    ::alarm(60);
    int n = 0;
    {
        std::vector<std::jthread> all;
        for (int t = 0; t < 4; ++t) {
            all.emplace_back([&] {
                for (int i = 0; i < 2000; ++i) {
                    std::lock_guard l(lock);
                    ++n;
                    if (handlers_are_the_kernels && i % 16 == 0) {
                        ::raise(SIGUSR1);
                    }
                }
            });
        }
    }
    EXPECT_EQ(n, 4 * 2000);
    EXPECT_EQ(handled, handlers_are_the_kernels ? 4 * 125 : 0);
    ::alarm(0);
}

TEST(signal_lock, child_of_a_fork_under_the_lock_unlocks_it) {
    lock.lock();
    const pid_t child = ::fork();
    lock.unlock();
    if (child == 0) {
        ::alarm(10);
        lock.lock();
        lock.unlock();
        ::_exit(blocked(SIGUSR1) ? 1 : 0);
    }
    int status = -1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace vmsgr::base
