// A channel of a trunk as a connection's far side. Bytes go straight from the packet into the program's ring: the
// credit that the peer has is room in the ring.
//
// Owner: one vm_conn, or whoever will make one; on the session's shard.
#pragma once

#include <seastar/core/weak_ptr.hh>

#include "conn/budget.hh"
#include "conn/far.hh"
#include "trunks/session.hh"

namespace vmsgr::trunks {

class trunk_far final : public conn::far_side,
                        public conn::push_source,
                        public trunk::channel_sink,
                        public seastar::weakly_referencable<trunk_far> {
    enum class at : uint8_t { waiting, opening, up, refused, broken, closed };
    session_ptr _session;  // none: waiting
    uint64_t _channel = 0;
    conn::far_user* _user = nullptr;
    at _state = at::opening;
    int _err = 0;
    bool _fin = false, _fin_sent = false;
    bool _only = false;  // no other way may be taken
    bool _in_batch = false;  // got bytes since the last on_end_of_batch(): the session remembers it
    uint64_t _window;
    uint64_t _received = 0, _granted;
    conn::lease _place;  // of the peer's share, which the session holds
    base::address _local, _peer;

    trunk_far(session_ptr s, uint64_t window, const base::address& local, const base::address& peer);

public:
    trunk_far* next_in_batch = nullptr;  // the session's

    // Opens a channel; null where the session cannot now. window: room in the ring, which is empty.
    static std::unique_ptr<trunk_far> open(session_ptr s, uint64_t window, const base::address& local,
                                           const base::address& peer);
    // Waits for a session; directory::wait() brings one.
    static std::unique_ptr<trunk_far> awaiting(uint64_t window, const base::address& local, const base::address& peer);
    // For one that the peer has opened; accept() is owed; one that is dropped before is reset.
    static std::unique_ptr<trunk_far> opened(session_ptr s, uint64_t channel, uint64_t window,
                                             const base::address& local, const base::address& peer, conn::lease place);
    // Another worker had the channel. window: of before accept(). Null: it is gone.
    static std::unique_ptr<trunk_far> going_on(session_ptr s, uint64_t channel, uint64_t window,
                                               const base::address& local, const base::address& peer);
    ~trunk_far() override;

    bool waits() const noexcept { return _state == at::waiting; }
    // Opens the channel; false: the session cannot now.
    bool begin(session_ptr s) noexcept;
    // Instead of begin().
    void give_up(int err) noexcept;
    // Where the peer does not carry the destination the connect fails.
    void forbid_other_ways() noexcept { _only = true; }

    // The peer has opened it, and waits for accept() or refuse().
    bool owes_answer() const noexcept {
        return _state == at::opening && _session->engine().settings().which == trunk::side::acceptor;
    }
    void accept() noexcept;
    // Before accept(): room for so many bytes.
    void set_window(uint64_t bytes) noexcept { _window = _granted = bytes; }
    // From now on there may be room for so many: credit is given in larger steps.
    void widen(uint64_t bytes) noexcept { _window = bytes; }
    // What the peer may still send.
    uint64_t credit() const noexcept { return _granted - _received; }
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
    void on_end_of_batch() noexcept;

    // conn::far_side
    conn::conn_path path() const noexcept override { return conn::conn_path::trunk; }
    bool encrypted() const noexcept override { return _session && _session->who.proof.secured; }
    std::string peer_identity() const override { return _session ? _session->who.proof.identity : std::string(); }
    conn::channel_name channel() const noexcept override {
        return _session ? conn::channel_name{_session->cookie(), _channel} : conn::channel_name{};
    }
    bool watch(ssx::event_set& events, conn::far_user& user) noexcept override;
    void unwatch() noexcept override { _user = nullptr; }
    conn::progress connecting() noexcept override;
    int take_error() noexcept override;
    base::address local() const noexcept override { return _local; }
    base::address peer() const noexcept override { return _peer; }
    std::variant<conn::pull_source*, conn::push_source*> source() noexcept override {
        return static_cast<conn::push_source*>(this);
    }
    bool has_unread() const noexcept override { return false; }
    ssize_t send(std::span<const iovec> pieces, sends how) noexcept override;
    bool carries_urgent() const noexcept override { return _session && _session->engine().settings().urgent; }
    void shut_send() noexcept override;
    void close() noexcept override;
    void reset() noexcept override;
    void release() noexcept override { reset(); }
    void discard_input() noexcept override {}

    // conn::push_source
    void set_credit(size_t room) noexcept override;
    bool needs_credit(size_t room) const noexcept override;
    std::optional<int> ended() noexcept override;

private:
    // channel_sink
    void on_accepted() noexcept override;
    void on_refused(int err) noexcept override;
    void on_data(std::span<const std::byte> bytes, bool urgent) noexcept override;
    void on_fin() noexcept override;
    void on_writable() noexcept override;
    void on_reset(int err) noexcept override;
    void give(std::span<const std::byte> bytes, bool urgent) noexcept;
    void tell(uint32_t events) noexcept;
};

}  // namespace vmsgr::trunks
