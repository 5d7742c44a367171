// The keeper's copies of the descriptors of connections, sessions and listeners, by the entries of the ledger. Its
// memory has its size from the start, and some descriptors are left to the keeper itself. No copy that it closes is the
// last one, so that no close waits: a worker that wants them back holds its own until the ledger says that these are
// gone; what a dead worker has left is closed by its successor.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <span>

#include "base/error.hh"
#include "base/unique_fd.hh"
#include "keeper/ledger.hh"
#include "shm/segment.hh"

namespace vmsgr::keeper {

using kept = std::array<int, kept_fds>;
inline constexpr kept none_kept{-1, -1, -1};

class custody {
    size_t _entries = 0;
    base::unique_fd _memory;
    shm::mapping _ledger;
    std::unique_ptr<kept[]> _kept;
    size_t _descriptors = 0, _most = 0;
    size_t _used = 0;  // entries from here on were never held

    void take(const custody_message& m, kept fds) noexcept;

public:
    static constexpr size_t entries_max = 1 << 20;
    static base::result<custody> make(size_t entries);
    // The ledger of another keeper, which has so many; it grows where there are to be more.
    static base::result<custody> adopt(base::unique_fd ledger, size_t has, size_t entries);

    // At most `most` messages. False: there are no more, or the worker has ended.
    bool receive(int channel, unsigned most, bool worker_lives) noexcept;
    // What another keeper held. False: there is no room for it, or it is held already.
    bool put(uint32_t entry, const kept& fds) noexcept;
    std::span<entry> ledger() const noexcept { return {reinterpret_cast<entry*>(_ledger.data()), _entries}; }
    int memory() const noexcept { return _memory.get(); }
    std::span<const kept> held() const noexcept { return {_kept.get(), _used}; }
    size_t descriptors() const noexcept { return _descriptors; }
    size_t room() const noexcept { return _most - std::min(_most, _descriptors); }
};

}  // namespace vmsgr::keeper
