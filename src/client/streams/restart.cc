#include "client/streams/restart.hh"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/sys.hh"

namespace vmsgr::client {

bool signals_restart() noexcept {
    // The kernel's own struct: glibc's sigaction() refuses the signals that it uses itself.
    struct kernel_sigaction {
        void (*handler)(int);
        unsigned long flags;
        void (*restorer)();
        unsigned long mask;
    };
    for (int sig = 1; sig < 65; ++sig) {
        if (sig == 32 || sig == 33) {
            continue;  // glibc's own: thread cancellation and setuid
        }
        kernel_sigaction a{};
        if (sys::call(SYS_rt_sigaction, sig, nullptr, &a, sizeof a.mask) != 0) {
            continue;
        }
        if (a.handler == SIG_DFL || a.handler == SIG_IGN) {
            continue;
        }
        if ((a.flags & SA_RESTART) == 0) {
            return false;
        }
    }
    // Without any handler the interruption was a stop and continue: the kernel goes on by itself.
    return true;
}

}  // namespace vmsgr::client
