// What a shard keeps of its memory for what it has begun. Where Seastar itself gets none, for what follows a future or
// for a message to another shard, it ends the process: so nothing new is begun while less than that is left. On any
// shard.
#pragma once

#include <seastar/core/memory.hh>

namespace vmsgr::ssx {

inline bool is_short_of_memory() noexcept {
    constexpr size_t part = 16;
    static thread_local const size_t reserve = seastar::memory::stats().total_memory() / part;
    return seastar::memory::free_memory() < reserve;
}

}  // namespace vmsgr::ssx
