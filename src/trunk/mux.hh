// The channels of a session: what each may send and has been granted, which frames are due, and what a peer's frames
// mean. It writes frames into the replay window and reads those of data packets in order; packets, acknowledgements and
// time are the engine's.
//
// Owner: one engine; all calls on its shard. Sinks may call back from within any call to them.
#pragma once

#include <sys/uio.h>

#include <array>
#include <unordered_map>

#include <boost/intrusive/list.hpp>

#include "base/counters.hh"
#include "trunk/replay_window.hh"

namespace vmsgr::trunk {

// Who is at the local end of a channel.
class channel_sink {
public:
    // The opener hears one of the two; after on_refused the channel is gone.
    virtual void on_accepted() noexcept = 0;
    virtual void on_refused(int err) noexcept = 0;
    // Never more than was granted, and the bytes are the sink's now. urgent: the last of them is.
    virtual void on_data(std::span<const std::byte> bytes, bool urgent) noexcept = 0;
    virtual void on_fin() noexcept = 0;
    // After a send() that did not take all.
    virtual void on_writable() noexcept = 0;
    // The channel is gone.
    virtual void on_reset(int err) noexcept = 0;

protected:
    ~channel_sink() = default;
};

class engine_owner {
public:
    // A channel that the peer opens, to an address that names one host. Null: refused at once, with ECONNREFUSED unless
    // refuse() was called. Else accept() or refuse() must follow.
    virtual channel_sink* on_open(uint64_t channel, const base::address& source,
                                  const base::address& destination) noexcept = 0;
    // next_packet() has something that it did not have before.
    virtual void on_output() noexcept = 0;

protected:
    ~engine_owner() = default;
};

// Of a channel that another process has had before.
struct channel_state {
    uint64_t received = 0, granted = 0;
    bool up = false, fin_sent = false, fin_received = false;
};

enum class side : uint8_t { initiator, acceptor };

struct engine_settings {
    side which = side::initiator;
    size_t packet_bytes = packet_bytes_default;
    uint64_t replay_bytes = 8 << 20;  // kept for the peer that has not acknowledged it; at least replay_packets_min
    uint64_t channels_max = 16384;
    uint32_t keepalive_ms = 1000;  // silence after which a dummy leaves; three of them without an answer: dead
    bool urgent = false;  // both sides know urgent data
};

struct engine_counters {
    uint64_t packets_out = 0, packets_in = 0;  // data packets, each time they leave
    uint64_t bytes_out = 0, bytes_in = 0;  // of channels
    uint64_t replayed = 0;  // packets that left again on a new connection
    uint64_t duplicates = 0;  // came again, and were dropped
    uint64_t late_frames = 0;  // for channels that had ended here
    uint64_t channels_total = 0;
    uint64_t channels_reset = 0;  // by end()
    std::array<uint64_t, packet_fault_kinds> faults{};

    void count(packet_fault f) noexcept { ++faults[size_t(f)]; }
};
inline constexpr base::counter<engine_counters> engine_counter_table[] = {
    {"packets_out", &engine_counters::packets_out},
    {"packets_in", &engine_counters::packets_in},
    {"bytes_out", &engine_counters::bytes_out},
    {"bytes_in", &engine_counters::bytes_in},
    {"replayed", &engine_counters::replayed},
    {"duplicates", &engine_counters::duplicates},
    {"late_frames", &engine_counters::late_frames},
    {"channels_total", &engine_counters::channels_total},
    {"channels_reset", &engine_counters::channels_reset},
};
static_assert(base::lists_all(engine_counter_table));

class mux {
    // Frames that a channel is to send as soon as there is room.
    enum due_frame : uint8_t { due_accept = 1, due_refuse = 2, due_credit = 4, due_fin = 8, due_reset = 16 };
    // In one list each, without memory of its own; out of it at its end.
    using in_list = boost::intrusive::list_member_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
    struct channel {
        uint64_t id;
        channel_sink* sink = nullptr;
        uint64_t sent = 0, may_send = 0;  // bytes ever; may_send is the peer's word
        uint64_t received = 0, granted = 0;  // granted is ours
        int err = 0;  // with due_refuse and due_reset
        uint8_t due = 0;  // bits of due_frame
        bool up = false;  // accepted
        bool fin_sent = false, fin_received = false;
        bool wants_writable = false;  // on_writable must follow
        bool unclaimed = false;  // loaded; its sink has not come yet
        in_list due_hook, waiting_hook;
        bool ends() const noexcept { return (due & (due_refuse | due_reset)) != 0; }
    };
    template <in_list channel::* Hook>
    using list = boost::intrusive::list<channel, boost::intrusive::member_hook<channel, in_list, Hook>,
                                        boost::intrusive::constant_time_size<false>>;

    const engine_settings& _settings;
    engine_owner& _owner;
    replay_window& _out;
    engine_counters& _count;
    std::unordered_map<uint64_t, channel> _channels;
    list<&channel::due_hook> _due;  // have frames to be written
    list<&channel::waiting_hook> _waiting;  // for room, in their turn
    uint64_t _last_channel = 0;  // opened by either side
    bool _sends = true, _saved = false;

public:
    mux(const engine_settings& s, engine_owner& owner, replay_window& out, engine_counters& count) noexcept
        : _settings(s), _owner(owner), _out(out), _count(count) {}

    // What engine.hh says of the calls with these names.
    uint64_t open(const base::address& source, const base::address& destination, uint64_t credit, channel_sink& sink);
    void accept(uint64_t id, uint64_t credit) noexcept;
    void refuse(uint64_t id, int err) noexcept;
    size_t send(uint64_t id, std::span<const iovec> pieces, bool urgent);
    void grant(uint64_t id, uint64_t total) noexcept;
    void fin(uint64_t id) noexcept;
    void close(uint64_t id) noexcept;
    void reset(uint64_t id, int err) noexcept;
    void end(int err) noexcept;
    size_t channels() const noexcept { return _channels.size(); }

    // Frames wait to be written.
    bool has_due() const noexcept { return !_due.empty(); }
    // Writes them, as far as there is room.
    void write_due() noexcept;
    // Tells those who wait for room, as long as there is some.
    void wake_waiting() noexcept;

    // All frames of a data packet. A fault: the rest of it was not read.
    std::optional<packet_fault> take_frames(std::span<const std::byte> payload) noexcept;

    // See engine.
    void may_send(bool yes) noexcept { _sends = yes; }
    void save(base::record_writer& to);
    bool load(base::record_reader& from);
    std::optional<channel_state> claim(uint64_t id, channel_sink& sink) noexcept;
    size_t end_unclaimed() noexcept;

private:
    channel* find(uint64_t id) noexcept;
    void add_due(channel& c, due_frame what) noexcept;
    bool write_due_of(uint64_t id, channel& c) noexcept;
    void wait_for_room(channel& c) noexcept;
    void tell_writable(channel& c) noexcept;
    void erase_if_done(uint64_t id, channel& c) noexcept;
    std::optional<packet_fault> take_frame(const frame& f) noexcept;
    std::optional<packet_fault> take_open(const frame& f) noexcept;
    std::optional<packet_fault> take_accept(const frame& f, channel& c) noexcept;
    void take_end(const frame& f, channel& c) noexcept;
    void take_credit(const frame& f, channel& c) noexcept;
    void take_data(const frame& f, channel& c) noexcept;
    std::optional<packet_fault> take_fin(const frame& f, channel& c) noexcept;
};

}  // namespace vmsgr::trunk
