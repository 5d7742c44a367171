// Numbers that nobody can guess. Any thread; the kernel's generator, so a fork needs no care.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmsgr::base {

// Does not fail: once the machine has booted, the kernel always has some.
void random_bytes(void* at, size_t bytes) noexcept;
// Never 0, which means "none" for keys and sessions.
uint64_t random_u64_nonzero() noexcept;

}  // namespace vmsgr::base
