// Numbers that nobody can guess. Any thread; the kernel's generator, so a fork needs no care.
#pragma once

#include <cstdint>

namespace vmsgr::base {

// Never 0, which means "none" for keys and sessions. Does not fail: once the machine has booted, the kernel always has
// 8 random bytes.
uint64_t random_u64_nonzero() noexcept;

}  // namespace vmsgr::base
