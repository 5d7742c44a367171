// This process or the kernel has too little of something at the moment: a call that failed so says nothing of what it
// was asked about. Any thread.
#pragma once

#include <errno.h>

namespace vmsgr::base {

constexpr bool is_shortage(int errnum) noexcept {
    return errnum == ENOMEM || errnum == ENOBUFS || errnum == EMFILE || errnum == ENFILE;
}

}  // namespace vmsgr::base
