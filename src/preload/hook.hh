// For the files that define hooks. A hook decides ownership first: what is not ours goes on to libc untouched.
#pragma once

#include <errno.h>

#include "preload/objects.hh"
#include "preload/real.hh"

#define VMSGR_HOOK extern "C" __attribute__((visibility("default")))

namespace vmsgr::preload {

// What we do on the way to a success leaves errno as it was.
template <typename F>
auto keep_errno(F&& f) {
    int saved = errno;
    auto r = f();
    if (r >= 0) {
        errno = saved;
    }
    return r;
}

inline int bad_descriptor() noexcept {
    errno = EBADF;
    return -1;
}

}  // namespace vmsgr::preload
