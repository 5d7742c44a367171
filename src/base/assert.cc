#include "base/assert.hh"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>

namespace vmsgr::base {

namespace {

std::atomic<uint64_t> nevers{0};

// No allocation and no stdio: this runs inside other people's programs.
void say(const char* kind, const char* what, const char* file, int line) noexcept {
    char text[512];
    int n = snprintf(text, sizeof text, "vmsgr: %s: %s (%s:%d)\n", kind, what, file, line);
    if (n > 0) {
        [[maybe_unused]] auto r = ::write(2, text, size_t(n) < sizeof text ? size_t(n) : sizeof text - 1);
    }
}

}  // namespace

void assertion_failed(const char* what, const char* file, int line) noexcept {
    say("assertion failed", what, file, line);
    ::abort();
}

bool never_happened(const char* what, const char* file, int line) noexcept {
    if (nevers.fetch_add(1, std::memory_order_relaxed) == 0 && ::getenv("VMSGR_LOG") != nullptr) {
        say("believed impossible", what, file, line);
    }
    return true;
}

uint64_t never_count() noexcept { return nevers.load(std::memory_order_relaxed); }

}  // namespace vmsgr::base
