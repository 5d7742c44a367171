// A peer's channel to a program of this host that is not attached: we connect to it by plain TCP, on the peer's behalf.
// It sees our address as its peer's. One pump between two far sides: the server's socket is the pump's far side, and
// the channel takes the place of the program, with a buffer each way instead of rings. Driven by events; no fiber.
//
// Owner: the shard's trunks, which drop it once it is over().
#pragma once

#include <array>
#include <vector>

#include "conn/budget.hh"
#include "conn/end_mark.hh"
#include "conn/pump.hh"
#include "trunks/far.hh"
#include "trunks/kept.hh"
#include "trunks/relay_memory.hh"

namespace vmsgr::trunks {

class trunk_relay final : conn::far_user {
    friend class conn::pump<trunk_relay>;
    // Bytes on their way in one direction: those from `sent` on are still to be sent.
    struct buffer {
        std::vector<std::byte> bytes;
        size_t sent = 0;
        size_t urgent_end = 0;  // behind the latest urgent byte; up to `sent`: none is left
        size_t left() const noexcept { return bytes.size() - sent; }
        // So many of the next n come before an urgent one.
        size_t before_urgent(size_t n) const noexcept {
            return urgent_end <= sent ? n : std::min(n, urgent_end - 1 - sent);
        }
        shm::pieces piece(size_t n) noexcept { return {{iovec{bytes.data() + sent, n}, iovec{}}}; }
        void drop(size_t n) noexcept;
    };

    base::unique_fd _socket;
    std::unique_ptr<conn::far_side> _server;
    std::unique_ptr<trunk_far> _channel;
    conn::lease _place, _fds;
    relay_memory _memory;
    buffer _to_server, _to_channel;
    uint64_t _window;  // grows while the peer uses it up
    uint64_t _taken = 0;  // of it
    life::connection _life;
    conn::pump<trunk_relay> _pump;
    conn::end_mark _mark;
    bool _running = false;

public:
    // Buffered at most, from the peer; a new relay begins with less, as most never use that much.
    static constexpr uint64_t window_max = 256 << 10, window_first = 16 << 10;

    ~trunk_relay();
    // Of a new one, whose socket is connecting.
    static kept_relay begin(const relay_memory& memory, trunk_far& channel);
    // from: begin(), or of another worker; then the channel goes on as well.
    trunk_relay(base::unique_fd socket, std::unique_ptr<trunk_far> channel, conn::lease place, conn::lease fds,
                relay_memory memory, kept_relay from);
    bool start(ssx::event_set& events);
    // Nothing moves from now on; what another worker needs to go on. Throws std::bad_alloc.
    kept_relay keep();
    int socket() const noexcept { return _socket.get(); }
    bool over() const noexcept { return _life.over(); }

private:
    // conn::far_user: of both sides; only the channel pushes.
    void on_events(uint32_t) noexcept override { run(); }
    bool on_bytes(std::span<const std::byte> bytes, bool urgent) noexcept override;
    void on_batch_end() noexcept override { run(); }

    void run() noexcept;
    void connect() noexcept;
    bool take_from_channel() noexcept;
    void give_credit() noexcept;
    bool send_to_channel() noexcept;
    bool keep(buffer& b, std::span<const std::byte> bytes, bool urgent) noexcept;
    void keep_for_channel(size_t n, bool urgent) noexcept;
    life::actions step(life::event e, int err = 0) noexcept;
    void settle() noexcept;
    void let_go() noexcept;

    // near_side, for the pump
    bool to_send(size_t& n) noexcept { return n = _to_server.left(), true; }
    shm::pieces data(size_t n) noexcept { return _to_server.piece(n); }
    bool more_follows() const noexcept { return false; }
    void sent(size_t n) noexcept { _to_server.drop(n), settle(); }
    // A read goes here first, as it is not known how much will come. None before the channel took what came before.
    static std::array<std::byte, 64 << 10>& scratch() noexcept {
        static thread_local std::array<std::byte, 64 << 10> bytes;
        return bytes;
    }
    bool room_at_all(size_t& n) noexcept { return room(n); }
    bool room(size_t& n) noexcept;
    shm::pieces space(size_t n) noexcept { return {{iovec{scratch().data(), n}, iovec{}}}; }
    size_t before_urgent(size_t n) const noexcept { return _to_server.before_urgent(n); }
    void received(size_t n) noexcept { keep_for_channel(n, false); }
    void received_urgent() noexcept { keep_for_channel(1, true); }
    void wake_program() noexcept {}
    void credit_exceeded() noexcept {}  // a socket is pulled
};

}  // namespace vmsgr::trunks
