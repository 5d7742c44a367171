// For the files that define hooks. A hook decides ownership first: what is not ours goes on to libc untouched.
#pragma once

#include <errno.h>

#include "base/keep_errno.hh"
#include "preload/objects.hh"
#include "preload/real.hh"

#define VMSGR_HOOK extern "C" __attribute__((visibility("default")))

namespace vmsgr::preload {

using base::keep_errno;

inline int bad_descriptor() noexcept {
    errno = EBADF;
    return -1;
}

}  // namespace vmsgr::preload
