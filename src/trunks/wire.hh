// A channel of a trunk as a connection's far side. Bytes go straight from the packet into the program's ring: the
// credit that the peer has is room in the ring.
//
// Owner: one vm_conn, or whoever will make one; on the session's shard.
#pragma once

#include <seastar/core/weak_ptr.hh>

#include "trunks/session.hh"
#include "conn/wire.hh"

namespace vmsgr::trunks {

class trunk_wire final : public net::wire, public trunk::channel_sink, public seastar::weakly_referencable<trunk_wire> {
    enum class at : uint8_t { opening, up, refused, broken, closed };
    session_ptr _session;
    uint64_t _channel = 0;
    net::wire_user* _user = nullptr;
    at _state = at::opening;
    int _err = 0;
    bool _fin = false, _fin_sent = false;
    bool _brought = false;  // bytes, since the last on_end_of_data(): the session remembers it
    uint64_t _window;
    uint64_t _received = 0, _granted;
    base::address _local, _peer;

    trunk_wire(session_ptr s, uint64_t window, const base::address& local, const base::address& peer);

public:
    trunk_wire* next_brought = nullptr;  // the session's

    // Opens a channel; null where the session cannot now. window: room in the ring, which is empty.
    static std::unique_ptr<trunk_wire> open(session_ptr s, uint64_t window, const base::address& local,
                                            const base::address& peer);
    // For one that the peer has opened; accept() is owed, and ends by itself a wire that is dropped before.
    static std::unique_ptr<trunk_wire> opened(session_ptr s, uint64_t channel, uint64_t window,
                                              const base::address& local, const base::address& peer);
    ~trunk_wire() override;

    void accept() noexcept;
    // Before accept(): room for so many bytes.
    void set_window(uint64_t bytes) noexcept { _window = _granted = bytes; }
    void refuse(int err) noexcept;
    // For a program whose listener is an IPv6 socket.
    void show_mapped() noexcept {
        _local = _local.mapped();
        _peer = _peer.mapped();
    }
    // The peer has given up meanwhile.
    bool gone() const noexcept { return _state == at::broken; }
    uint64_t window() const noexcept { return _window; }

    // From the session, after on_data().
    void on_end_of_data() noexcept;

    // wire
    bool watch(ssx::event_set& events, net::wire_user& user) noexcept override;
    void unwatch() noexcept override { _user = nullptr; }
    net::progress connecting() noexcept override;
    int take_error() noexcept override;
    base::address local() const noexcept override { return _local; }
    base::address peer() const noexcept override { return _peer; }
    ssize_t send(std::span<const iovec> pieces, bool more) noexcept override;
    ssize_t receive(std::span<const iovec> space) noexcept override;
    bool has_unread() const noexcept override { return false; }
    bool brings() const noexcept override { return true; }
    bool wants_room(size_t free) const noexcept override;
    void shut_send() noexcept override;
    void discard_input() noexcept override {}
    void close() noexcept override;
    void reset() noexcept override;

private:
    // channel_sink
    void on_accepted() noexcept override;
    void on_refused(int err) noexcept override;
    void on_data(std::span<const std::byte> bytes) noexcept override;
    void on_fin() noexcept override;
    void on_writable() noexcept override;
    void on_reset(int err) noexcept override;
    void tell(uint32_t events) noexcept;
};

}  // namespace vmsgr::trunks
