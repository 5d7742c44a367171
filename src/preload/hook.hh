// For the files that define hooks. A hook decides ownership first: what is not ours goes on to libc untouched.
#pragma once

#include <errno.h>
#include <pthread.h>

#include <atomic>

#include "base/keep_errno.hh"
#include "preload/objects.hh"
#include "preload/real.hh"

#define VMSGR_HOOK extern "C" __attribute__((visibility("default")))

namespace vmsgr::preload {

using base::keep_errno;

// A thread that may be cancelled at any instruction would leave our locks held, and unwind from instructions that no
// exception table knows, which ends the process. So while it is in a hook it is cancelled where it sleeps, and at the
// end. The hook itself is name_hook; the exported function around it has nothing to clean up, so it has no such
// table. Costs a load where no thread of the program has ever asked for that.
extern std::atomic<bool> async_cancellation;
#define VMSGR_CALM_HOOK(result, name, parameters, arguments)                            \
    VMSGR_HOOK result name parameters {                                                 \
        if (__builtin_expect(!async_cancellation.load(std::memory_order_relaxed), 1)) { \
            return name##_hook arguments;                                               \
        }                                                                               \
        int before = PTHREAD_CANCEL_DEFERRED;                                           \
        real.pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &before);                   \
        const result r = name##_hook arguments;                                         \
        real.pthread_setcanceltype(before, nullptr);                                    \
        return r;                                                                       \
    }
#define VMSGR_INNER_HOOK static __attribute__((noinline))

inline int bad_descriptor() noexcept {
    errno = EBADF;
    return -1;
}

}  // namespace vmsgr::preload
