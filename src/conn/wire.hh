// The far side of a connection, as vm_conn sees it: a kernel TCP socket (tcp_wire.cc) or a channel of a trunk
// (trunk_wire.cc). Behaves as a non-blocking socket does, but that a wire may bring bytes by itself.
//
// Owner: one vm_conn, on its shard. Nothing here waits.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <span>

#include "base/address.hh"
#include "base/unique_fd.hh"
#include "conn/kernel_socket.hh"
#include "ssx/event_set.hh"

namespace vmsgr::net {

class wire_user : public ssx::event_sink {
public:
    // From a wire that brings bytes: never more than the last receive() had room for. False: thrown away, there is as
    // much room as before.
    virtual bool on_bytes(std::span<const std::byte> bytes) noexcept = 0;
    // No more of them for now: who waits for them may be woken.
    virtual void on_bytes_end() noexcept = 0;

protected:
    ~wire_user() = default;
};

class wire {
public:
    virtual ~wire() = default;

    // Events as epoll tells them, edges; what is true now comes first.
    virtual bool watch(ssx::event_set& events, wire_user& user) noexcept = 0;
    virtual void unwatch() noexcept = 0;

    // Where the connect stands that was begun.
    virtual progress connecting() noexcept = 0;
    virtual int take_error() noexcept = 0;
    // Once it stands; none where it is not known.
    virtual base::address local() const noexcept = 0;
    virtual base::address peer() const noexcept = 0;

    // Bytes, or an errno below 0. receive: 0 is the end.
    virtual ssize_t send(std::span<const iovec> pieces, bool more) noexcept = 0;
    virtual ssize_t receive(std::span<const iovec> space) noexcept = 0;
    virtual bool has_unread() const noexcept = 0;
    // receive() only says how much room there is, and bytes come by on_bytes.
    virtual bool brings() const noexcept { return false; }
    // ... and it wants to be called again, as soon as there is any room, now that there are so many bytes of it.
    virtual bool wants_room(size_t) const noexcept { return false; }

    virtual void shut_send() noexcept = 0;
    virtual void discard_input() noexcept = 0;
    // Orderly, after all that was sent; or with a reset, now. Once; nothing else after it.
    virtual void close() noexcept = 0;
    virtual void reset() noexcept = 0;
};

// `socket` belongs to the connection, which outlives its wire.
std::unique_ptr<wire> make_tcp_wire(base::unique_fd& socket);

}  // namespace vmsgr::net
