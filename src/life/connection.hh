// The life of one connection as a table: what has happened to it, and what is to be done about it. The rules are those
// of Linux TCP. No I/O, no clock, no allocation.
//
//     program  ---- out ---->  far side        (in the daemon: a TCP socket or a channel of a trunk)
//              <---- in -----
//
// Who may call: whoever carries the connection, on one thread. A `connection` is plain data that can be copied. apply()
// takes one event and returns what the caller must do now; once it returned `finish`, last() says how both sides are
// let go. save() and restore() take the state over to another process.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>

namespace vmsgr::life {

enum class phase : uint8_t { connecting, established, closing, over };

// One direction of bytes. It only ever goes forward.
enum class way : uint8_t {
    open,
    fin,  // its sender has said that no more follows. out: what the ring holds still leaves; in: all was delivered
    ended,  // nothing moves any more
};

// One of the two sides.
enum class side : uint8_t {
    held,  // it may still send or receive
    shut,  // program: it shut down both directions and still holds its end. Far side: it has sent its end of file
    left,  // it closed in order: what it had sent before counts
    killed,  // it went without a word, or broke the connection
};

enum class cause : uint8_t {
    none,
    in_order,
    cancelled,  // the program left before its connect was decided
    connect_failed,
    program_reset,  // closed with SO_LINGER 0 or unread bytes, or never accepted
    far_error,
    rules_broken,
    stopped,  // the daemon ends; all is sent, and the program had ended its output or was not connected yet
    cut,  // the daemon ends, and the program would have sent more
    timed_out,  // nothing moved for too long after the program had left, or the daemon was told to stop
    aborted,  // a fault of ours
    recalled,  // the program took its kernel socket back
};

enum class event : uint8_t {
    connected,
    connect_failed,  // with an errno
    shut_read,  // the program's shutdown()
    shut_write,
    closed,  // the last holder of the program's end is gone; it said so before
    killed,  // ... without a word
    nothing_unread,  // after `flush`: the program that left had read everything
    program_reset,  // after `flush`: it had not, or SO_LINGER is 0; also at any other time
    all_sent,  // the ring is empty, and last_bytes() said that nothing follows
    far_fin,  // the far side's end of file, after all its bytes
    all_received,  // after far_fin: no error stood behind it
    send_failed,  // a send to the far side took this errno
    far_failed,  // a receive or a look took it; after send_failed: all was received that could be
    rules_broken,  // by the program
    stop,  // the daemon ends
    time_out,  // of what `watch` began
    aborted,
    recalled,
};

enum class action : uint16_t {
    wake_out = 1,  // look at this direction again
    wake_in = 2,
    flush = 4,  // send what the far side takes without waiting; then tell nothing_unread or program_reset
    salvage = 8,  // receive what the far side had sent before; then tell far_failed with the same errno
    shut_far = 16,  // end of file for the far side
    fin_program = 32,  // end of file for the program
    reset_program = 64,  // `error` for the program
    give_back = 128,  // `error` for the program, and its kernel socket
    count_orphan = 256,
    watch = 512,  // begin to look whether bytes still move
    finish = 1024,  // both directions stop; then do what last() says, as the very last

    // From last() alone.
    reset_far = 2048,  // at most one of these three
    close_far = 4096,
    release_far = 8192,  // drop it without a word to the far side: the program goes on with it
    discard_input = 16384,  // before close_far: unread bytes would turn it into a reset
    drain_tokens = 32768,  // before the doorbell is closed: left unread, they show the program an error
};

struct actions {
    uint16_t bits = 0;
    int32_t error = 0;  // an errno, for reset_program and give_back
    constexpr bool has(action a) const noexcept { return (bits & uint16_t(a)) != 0; }
    constexpr actions& operator|=(action a) noexcept {
        bits |= uint16_t(a);
        return *this;
    }
    bool operator==(const actions&) const = default;
};

struct connection {
    phase at = phase::connecting;
    way out = way::open, in = way::open;
    side program = side::held, far = side::held;
    cause why = cause::none;
    bool given_back = false;  // the program has its kernel socket: nothing is done to either side any more
    bool read_shut = false;  // by the program
    bool stopping = false;
    bool orphan = false;  // the program left, in order, with bytes still to be sent
    int32_t error = 0;  // what the program was told

    static constexpr connection accepted() noexcept { return {.at = phase::established}; }
    bool operator==(const connection&) const = default;

    actions apply(event e, int err = 0) noexcept;
    // How the far side and the doorbell are let go. Before `finish`: nothing.
    actions last() const noexcept;

    bool over() const noexcept { return at == phase::over; }
    bool gone() const noexcept { return program == side::left || program == side::killed; }
    // What the ring to the far side holds now is all that comes.
    bool last_bytes() const noexcept { return out != way::open || gone() || stopping; }

    // A rule that this state breaks; null where it may be.
    const char* impossible() const noexcept;

    static constexpr size_t saved_bytes = 16;
    using saved = std::array<std::byte, saved_bytes>;
    saved save() const noexcept;
    // Or the reason why these bytes are no connection.
    static std::expected<connection, const char*> restore(std::span<const std::byte> bytes) noexcept;

private:
    actions over_by(cause c, int err = 0) noexcept;
    actions on_hang_up(side how) noexcept;
    actions on_all_sent() noexcept;
    actions on_far_fin() noexcept;
    actions on_nothing_unread() noexcept;
    actions on_send_failed(int err) noexcept;
    actions on_stop() noexcept;
};
static_assert(sizeof(connection) == 16);

}  // namespace vmsgr::life
