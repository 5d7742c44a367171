// What we do on the way to a success leaves errno as it was, as libc's own calls do.
#pragma once

#include <errno.h>

namespace vmsgr::base {

template <typename F>
auto keep_errno(F&& f) {
    const int saved = errno;
    auto r = f();
    if (r >= 0) {
        errno = saved;
    }
    return r;
}

}  // namespace vmsgr::base
