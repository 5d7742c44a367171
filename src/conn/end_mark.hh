// How the kernel ends a carried TCP connection when the daemon dies. Without a word it would send what lies in the
// socket and then an end of file, which the peer cannot tell from the program's own, although bytes in the rings are
// lost. So the socket lingers for no time while it is carried: its close, by whomever, is a reset. What the program
// itself has set is kept beside it, and is the socket's again before it is closed in order, given back, or lent.
//
// Owner: the far side of a connection, on its shard.
#pragma once

#include <sys/socket.h>

#include <optional>

namespace vmsgr::conn {

class end_mark {
    std::optional<linger> _own;  // the program's, while the mark is set

public:
    end_mark() noexcept = default;
    // Who handed the socket over has set it (proto::feature_end_mark), and `own` is what it was before.
    explicit end_mark(const linger& own) noexcept;

    // Does nothing where the program has asked for a reset itself.
    void set(int socket) noexcept;
    const std::optional<linger>& own() const noexcept { return _own; }
    void lift(int socket) noexcept;
    // The program has set SO_LINGER to 0: also while the mark is set.
    bool program_resets(int socket) const noexcept;
};

}  // namespace vmsgr::conn
