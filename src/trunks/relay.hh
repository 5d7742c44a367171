// A peer's channel to a program of this host that is not attached: we connect to it by plain TCP, on the peer's behalf.
// It sees our address as its peer's. Driven by events alone; no fiber.
//
// Owner: the shard's openings, which drop it once it is over().
#pragma once

#include <vector>

#include "conn/budget.hh"
#include "trunks/wire.hh"

namespace vmsgr::trunks {

class trunk_relay {
    struct near_end final : net::wire_user {
        trunk_relay& r;
        explicit near_end(trunk_relay& x) noexcept : r(x) {}
        void on_events(uint32_t) noexcept override { r.pump(); }
        bool on_bytes(std::span<const std::byte>) noexcept override { return false; }
        void on_bytes_end() noexcept override {}
    };
    struct far_end final : net::wire_user {
        trunk_relay& r;
        explicit far_end(trunk_relay& x) noexcept : r(x) {}
        void on_events(uint32_t) noexcept override { r.pump(); }
        bool on_bytes(std::span<const std::byte> bytes) noexcept override { return r.take(bytes); }
        void on_bytes_end() noexcept override { r.pump(); }
    };
    // Bytes on their way in one direction: those from `sent` on are still to be sent.
    struct queue {
        std::vector<std::byte> bytes;
        size_t sent = 0;
        bool ended = false;       // nothing follows them
        bool told = false;        // ... and the other side knows
        size_t left() const noexcept { return bytes.size() - sent; }
    };

    base::unique_fd _socket;
    std::unique_ptr<net::wire> _near;
    std::unique_ptr<trunk_wire> _far;
    net::lease _place, _fds;
    near_end _near_end{*this};
    far_end _far_end{*this};
    queue _in, _out;  // from the trunk, to the trunk
    bool _up = false, _over = false, _pumping = false;

public:
    // Buffered each way at most.
    static constexpr size_t window = 256 << 10;

    // socket: connecting.
    trunk_relay(base::unique_fd socket, std::unique_ptr<trunk_wire> far, net::lease place, net::lease fds);
    ~trunk_relay();
    bool start(ssx::event_set& events);
    bool over() const noexcept { return _over; }

private:
    void pump() noexcept;
    bool connected() noexcept;
    bool pump_in() noexcept;
    bool pump_out() noexcept;
    bool take(std::span<const std::byte> bytes) noexcept;
    void keep(queue& q, std::span<const std::byte> bytes) noexcept;
    bool flush(queue& q, net::wire& to) noexcept;
    void broken(int err, bool near) noexcept;
    void end(bool with_reset) noexcept;
};

}  // namespace vmsgr::trunks
