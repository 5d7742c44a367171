// The doorbell: a stream socketpair whose bytes are tokens. One end is the program's descriptor itself, so the
// kernel alone answers poll, select, epoll, dup, fork and exec for it. With a small send buffer three unread
// tokens make the sending end not writable (measured at start, bell_limits); several more still go in. Two would be
// too few: an answer to an announcement may overlap one that is not taken yet, and OUT would be withheld for it
// (models/wake.pml, W=2).
//
// A bell is a view of one end; whoever made the pair owns the descriptors.
#pragma once

#include <cstdint>

#include "base/error.hh"
#include "base/unique_fd.hh"

namespace vmsgr::shm {

inline constexpr unsigned char token_byte = 0xb7;
inline constexpr uint32_t bell_tokens_max = 64;  // one take never asks for more

class bell {
    int _fd;
    bool _foreign = false;

public:
    explicit bell(int fd) noexcept : _fd(fd) {}
    int fd() const noexcept { return _fd; }

    // False: the other end is gone or the socket is full.
    bool send_token() noexcept;
    bool writable() const noexcept;
    // Takes up to n tokens without waiting; returns how many there were.
    uint32_t take_tokens(uint32_t n) noexcept;

    // How many bytes wait here now.
    uint32_t unread() const noexcept;

    // Something other than a token came: a raw write reached the doorbell (io_uring, a static child, syscall()).
    bool foreign() const noexcept { return _foreign; }
};

// What one look without taking shows. `waiting` blocks as the descriptor does (O_NONBLOCK, SO_RCVTIMEO,
// signals): that is how a blocking read sleeps, with the kernel's own EINTR and restart rules.
enum class bell_look : uint8_t { token, hangup, nothing };
bell_look look_at_bell(int fd, bool wait, int& errnum) noexcept;

struct bell_pair {
    base::unique_fd program;
    base::unique_fd other;
};
// CLOEXEC both; `other` is non-blocking. errno as the kernel says.
base::result<bell_pair> make_bell();
// The listener's: SOCK_SEQPACKET, one message a connection, with its descriptors. Ordinary buffers.
base::result<bell_pair> make_listener_bell();

// A listening socket never shows OUT: fills a listener's doorbell with bytes that nobody will read.
void never_writable(int fd) noexcept;

// How this kernel counts: tokens until the end is not writable, and until it refuses.
struct bell_limits {
    unsigned until_unwritable = 0;
    unsigned until_refused = 0;
    // The wake protocol needs room for a token or two past "not writable", and OUT while one lies unread.
    bool usable() const noexcept { return until_unwritable >= 3 && until_refused >= until_unwritable + 2; }
};
base::result<bell_limits> measure_bell();

}  // namespace vmsgr::shm
