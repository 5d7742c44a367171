// A shard's part of the ledger, and its way to the keeper. One shard; nothing here waits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "keeper/custody.hh"

namespace vmsgr::keeper {

class ledger_share {
    std::span<entry> _all;
    int _channel = -1;
    std::vector<uint32_t> _free;
    std::vector<uint32_t> _unsaid;  // asked back, and the channel was full
    std::vector<uint32_t> _late;    // nobody waits for them any more, but the keeper has not closed its copies

    uint32_t index_of(const entry& e) const noexcept { return uint32_t(&e - _all.data()); }
    bool say(uint32_t index, entry_state state, std::span<const int> fds) const noexcept;

public:
    // None: nothing is kept.
    ledger_share() = default;
    // Of `all`, the entries of this shard among so many shards; those that an earlier worker has left in the keeper's
    // hands are not free until somebody leaves them. Throws std::bad_alloc.
    ledger_share(std::span<entry> all, std::span<const kept> held, unsigned shard, unsigned shards, int channel);
    // However many entries there are: a ledger may grow.
    static unsigned shard_of(size_t index, unsigned shards) noexcept { return unsigned(index % shards); }

    // To be filled in, then given. Null: all are in use.
    entry* take(entry_kind kind) noexcept;
    // False: the channel is full, or nobody reads it; the entry is not kept.
    bool give(entry& e, std::span<const int> fds) noexcept;
    // The keeper is to close its copies; is_back() says when it has. Once for each, however often.
    void ask_back(entry& e) noexcept;
    bool is_back(const entry& e) const noexcept { return e.state.load(std::memory_order_acquire) == entry_back; }
    // What it was of is over, and all of ours is closed.
    void leave(entry& e) noexcept;
    // Now and then, as long as there is something to do.
    void tick() noexcept;
    bool has_work() const noexcept { return !_unsaid.empty() || !_late.empty(); }
};

}  // namespace vmsgr::keeper
