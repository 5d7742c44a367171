// VMSGR_ASSERT: our own error. Logs to stderr and aborts. Never on data from a peer, a file or the kernel.
// VMSGR_NEVER: believed impossible, yet handled: counted, said once on stderr when VMSGR_LOG is set, true is
// returned so that the caller handles it. Tests check that never_count() is 0.
#pragma once

#include <cstdint>

namespace vmsgr::base {

[[noreturn]] void assertion_failed(const char* what, const char* file, int line) noexcept;
bool never_happened(const char* what, const char* file, int line) noexcept;
uint64_t never_count() noexcept;

}  // namespace vmsgr::base

#define VMSGR_ASSERT(cond) ((cond) ? void(0) : ::vmsgr::base::assertion_failed(#cond, __FILE__, __LINE__))
#define VMSGR_NEVER(cond) (__builtin_expect(!!(cond), 0) && ::vmsgr::base::never_happened(#cond, __FILE__, __LINE__))
