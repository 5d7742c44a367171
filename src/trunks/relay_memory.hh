// What a relay may keep of bytes on their way: its part of what all relays of a shard may, and those of one peer.
// Memory is reserved before the peer is told that it may send so much, and before so much is read from the server. A
// little is the relay's own as long as it lives, so that it always goes on, and half of all there is is kept for that;
// beyond it a relay gets a part of what is left of the other half, so that whoever comes later finds some.
//
// On the shard of the usages, which outlive it.
#pragma once

#include <algorithm>

#include "trunks/shares.hh"

namespace vmsgr::trunks {

class relay_memory {
    conn::usage* _all;
    peer_share _peer;
    uint64_t _bytes;

    relay_memory(conn::usage& all, peer_share peer, uint64_t bytes) noexcept
        : _all(&all), _peer(std::move(peer)), _bytes(bytes) {}

public:
    // Each way.
    static constexpr uint64_t least = 4 << 10;

    static std::optional<relay_memory> take(conn::usage& all, peer_share peer) noexcept {
        if (!take_of_both(all, *peer, 2 * least)) {
            return std::nullopt;
        }
        return relay_memory(all, std::move(peer), 2 * least);
    }
    relay_memory(relay_memory&& o) noexcept
        : _all(o._all), _peer(std::move(o._peer)), _bytes(std::exchange(o._bytes, 0)) {}
    relay_memory& operator=(relay_memory&&) = delete;
    ~relay_memory() { give(_bytes); }

    // It may keep so much more, at once.
    uint64_t room() const noexcept {
        constexpr uint64_t part = 8;
        return std::min(spare_of(*_all), spare_of(*_peer)) / part;
    }
    // What it keeps now, each way. No more than it was and room().
    void settle(uint64_t one_way, uint64_t other_way) noexcept {
        const uint64_t bytes = std::max(one_way, least) + std::max(other_way, least);
        if (bytes < _bytes) {
            give(_bytes - bytes);
        } else if (!take_of_both(*_all, *_peer, bytes - _bytes)) {
            return;
        }
        _bytes = bytes;
    }

private:
    static uint64_t spare_of(const conn::usage& u) noexcept {
        return u.limit() / 2 - std::min(u.limit() / 2, u.used());
    }
    static bool take_of_both(conn::usage& all, conn::usage& peer, uint64_t n) noexcept {
        if (!all.take(n)) {
            return false;
        }
        if (!peer.take(n)) {
            all.give(n);
            return false;
        }
        return true;
    }
    void give(uint64_t n) noexcept {
        if (n != 0) {
            _all->give(n);
            _peer->give(n);
        }
    }
};

}  // namespace vmsgr::trunks
