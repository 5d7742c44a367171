// A count that one thread writes and any thread, or another process with the memory mapped, may read at any time. A
// write costs what a plain addition costs: there is no other writer, so nothing is locked. Any thread may read.
#pragma once

#include <atomic>
#include <cstdint>

namespace vmsgr::base {

class tally {
    std::atomic<uint64_t> _n{0};
    static_assert(std::atomic<uint64_t>::is_always_lock_free);

public:
    tally() noexcept = default;
    tally(uint64_t n) noexcept : _n(n) {}  // NOLINT(google-explicit-constructor): it is a number
    tally(const tally& o) noexcept : _n(o.read()) {}
    tally& operator=(const tally& o) noexcept {
        set(o.read());
        return *this;
    }
    uint64_t read() const noexcept { return _n.load(std::memory_order_relaxed); }
    operator uint64_t() const noexcept { return read(); }  // NOLINT(google-explicit-constructor)
    // The writer's.
    void set(uint64_t n) noexcept { _n.store(n, std::memory_order_relaxed); }
    tally& operator+=(uint64_t n) noexcept {
        set(read() + n);
        return *this;
    }
    tally& operator++() noexcept { return *this += 1; }
};

}  // namespace vmsgr::base
