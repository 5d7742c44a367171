// The far side of a connection: a kernel TCP socket (tcp_far.cc) or a channel of a trunk (trunks/far.cc). It sends as a
// non-blocking socket does. Its bytes come in one of two ways: they are pulled, or they are pushed within a credit.
//
// Owner: one vm_conn or one trunk_relay, on its shard. Nothing here waits. No Seastar in this header.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>

#include "base/address.hh"
#include "base/unique_fd.hh"
#include "conn/kernel_socket.hh"

namespace vmsgr::ssx {
class event_set;
}

namespace vmsgr::conn {

enum class conn_path : uint8_t { direct, local, trunk };
enum class conn_state : uint8_t { connecting, established, closing };

class far_user {
public:
    // As epoll tells them, edges.
    virtual void on_events(uint32_t events) noexcept = 0;
    // From a push_source, never more than its credit. False: thrown away, and there is as much room as before. urgent:
    // it is one byte, which the peer sent as urgent data.
    virtual bool on_bytes(std::span<const std::byte> bytes, bool urgent) noexcept = 0;
    // All bytes that arrived together were given: wake whoever waits for them.
    virtual void on_batch_end() noexcept = 0;

protected:
    ~far_user() = default;
};

class pull_source {
public:
    // Bytes, 0 for the end of file, or an errno below 0.
    virtual ssize_t receive(std::span<const iovec> space) noexcept = 0;
    // False: an end, an error or urgent data may stand behind the bytes, so that no event follows a short read.
    virtual bool short_read_empties() const noexcept = 0;
    // What receive() has given is one byte, which the peer sent as urgent data.
    virtual bool took_urgent() const noexcept = 0;

protected:
    ~pull_source() = default;
};

class push_source {
public:
    // There is room for so many bytes now. The peer is told where that is worth a packet.
    virtual void set_credit(size_t room) noexcept = 0;
    // With this room set_credit() would tell the peer.
    virtual bool needs_credit(size_t room) const noexcept = 0;
    // No bytes come any more: 0 for the end of file, or an errno. Nothing: they may.
    virtual std::optional<int> ended() noexcept = 0;

protected:
    ~push_source() = default;
};

// A channel of a trunk's session.
struct channel_name {
    uint64_t session = 0, channel = 0;  // 0: none
    bool operator==(const channel_name&) const = default;
};

class far_side {
public:
    virtual ~far_side() = default;
    virtual conn_path path() const noexcept = 0;
    virtual bool encrypted() const noexcept { return false; }
    // Who the other daemon has proved to be; empty where there is none.
    virtual std::string peer_identity() const { return {}; }

    // Another worker finds it by that name.
    virtual channel_name channel() const noexcept { return {}; }

    // Events go to `user`; what is true now comes first.
    virtual bool watch(ssx::event_set& events, far_user& user) = 0;
    virtual void unwatch() noexcept = 0;

    // The state of the connect that was begun.
    virtual progress connecting() noexcept = 0;
    virtual int take_error() noexcept = 0;
    // Once it is connected; none where it is not known.
    virtual base::address local() const noexcept = 0;
    virtual base::address peer() const noexcept = 0;

    virtual std::variant<pull_source*, push_source*> source() noexcept = 0;
    virtual bool has_unread() const noexcept = 0;

    // Bytes, or an errno below 0. urgent: the last byte is, where all are taken and the way carries such a thing.
    enum class sends : uint8_t { all, more_follows, urgent };
    // Known once it is connected.
    virtual bool carries_urgent() const noexcept { return true; }
    virtual ssize_t send(std::span<const iovec> pieces, sends how) noexcept = 0;
    virtual void shut_send() noexcept = 0;

    // One of these, once, and nothing after it: orderly, after all that was sent; with a reset, now; or without a word,
    // because the program goes on with the socket.
    virtual void close() noexcept = 0;
    virtual void reset() noexcept = 0;
    virtual void release() noexcept = 0;
    // Before close(): unread bytes would make it a reset.
    virtual void discard_input() noexcept = 0;
};

// `socket` belongs to the connection, which outlives this.
std::unique_ptr<far_side> make_tcp_far(base::unique_fd& socket);

}  // namespace vmsgr::conn
