// Whether the shards of a worker move. Pure: somebody looks now and then and says how much later it is.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>

#include "keeper/board.hh"

namespace vmsgr::keeper {

class watch {
    struct seen {
        uint64_t beats = 0;
        int64_t silent_ms = 0;
    };
    std::array<seen, shm::stats_shards_max> _seen{};
    size_t _shards;
    int64_t _limit_ms;

public:
    // limit_ms 0: no shard is ever found silent.
    watch(size_t shards, int64_t limit_ms) noexcept : _shards(std::min(shards, _seen.size())), _limit_ms(limit_ms) {}

    // How often to look; 0: never.
    int64_t interval_ms() const noexcept { return _limit_ms == 0 ? 0 : std::clamp<int64_t>(_limit_ms / 8, 10, 500); }

    void forget() noexcept { _seen = {}; }

    // A shard that has not moved for the limit. What counts is time in which somebody looked: a keeper that was stopped
    // itself, or a machine that slept, finds no shard silent for that.
    std::optional<size_t> look(const board& b, int64_t elapsed_ms) noexcept {
        const int64_t counted_ms = std::min(elapsed_ms, 2 * interval_ms());
        std::optional<size_t> found;
        for (size_t i = 0; i < _shards && _limit_ms != 0; ++i) {
            auto& s = _seen[i];
            const uint64_t beats = b.shard[i].beats.load(std::memory_order_relaxed);
            s.silent_ms = beats == s.beats ? s.silent_ms + counted_ms : 0;
            s.beats = beats;
            if (!found && s.silent_ms >= _limit_ms) {
                found = i;
            }
        }
        return found;
    }
    // A debugger holds it: the time begins anew.
    void excuse(size_t shard) noexcept { _seen[shard].silent_ms = 0; }
};

}  // namespace vmsgr::keeper
