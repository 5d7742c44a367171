// The doorbell: a stream socketpair whose bytes are tokens. One end is the program's descriptor itself, so the
// kernel alone answers poll, select, epoll, dup, fork and exec for it. With a small send buffer four unread
// tokens, the resident one among them, make the sending end not writable (measured at start, bell_limits); several
// more still go in. One less would be too few: an answer to an announcement may overlap one that is not taken yet,
// and OUT would be withheld for it (models/wake.pml, W=2).
//
// A bell is a view of one end; whoever made the pair owns the descriptors.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <span>

#include "base/error.hh"
#include "base/unique_fd.hh"

namespace vmsgr::shm {

inline constexpr unsigned char token_byte = 0xb7;
inline constexpr uint32_t bell_tokens_max = 64;  // one take never asks for more
inline constexpr int drains_max = 16;            // an end's buffer holds fewer tokens than that many takes

// Gets descriptors that somebody sent beside tokens. The kernel would close them in the call that takes the token,
// which may wait for as long as their sender likes.
class rights_sink {
public:
    virtual void take(base::unique_fd right) noexcept = 0;

protected:
    ~rights_sink() = default;
};

class bell {
    int _fd;
    uint32_t _resident;
    const std::atomic<uint32_t>* _other_flags;
    rights_sink* _rights;
    bool _foreign = false;

    bool send(int how) noexcept;

public:
    // resident: uncounted tokens that stay here as long as the connection does (prepare_bell). other_flags: what the
    // other end says of itself (end_flag). A token that carries a socket (end_moved) is not taken.
    // rights: none where a token is all that may hold up the caller.
    explicit bell(int fd, uint32_t resident = 0, const std::atomic<uint32_t>* other_flags = nullptr,
                  rights_sink* rights = nullptr) noexcept
        : _fd(fd), _resident(resident), _other_flags(other_flags), _rights(rights) {}
    int fd() const noexcept { return _fd; }
    uint32_t resident() const noexcept { return _resident; }

    // False: the other end is gone or the socket is full.
    bool send_token() noexcept { return send(0); }
    // The same, and the other end shows PRI as long as it lies there; its owner gets SIGURG. With a kernel whose unix
    // sockets have no urgent data (before Linux 5.15) it is a token like others.
    bool send_urgent_token() noexcept;
    bool writable() const noexcept;
    // Takes up to n tokens without waiting; returns how many there were.
    uint32_t take_tokens(uint32_t n) noexcept;

    // Everything that an honest end can have left here.
    void drain() noexcept {
        for (int i = 0; i < drains_max && take_tokens(bell_tokens_max) == bell_tokens_max; ++i) {
        }
    }
    // Descriptors lie here beside tokens, or more than can be looked at: closing this end may wait.
    bool holds_rights() const noexcept;

    // How many tokens wait here now, the resident ones left out.
    uint32_t unread() const noexcept;

    // Something other than a token came, or descriptors beside one: a raw write reached the doorbell (io_uring, a
    // static child, syscall()).
    bool foreign() const noexcept { return _foreign; }

private:
    ssize_t receive(unsigned char* to, uint32_t n) noexcept;
};

// recvmsg() without waiting, that hands over what came beside the bytes. some: set where there was anything.
ssize_t receive_with_rights(int fd, std::span<iovec> into, rights_sink& rights, bool& some) noexcept;

// What one look without taking shows. `waiting` blocks as the descriptor does (O_NONBLOCK, SO_RCVTIMEO,
// signals): that is how a blocking read sleeps, with the kernel's own EINTR and restart rules.
enum class bell_look : uint8_t { token, hangup, nothing };
bell_look look_at_bell(int fd, bool wait, int& errnum);

struct bell_pair {
    base::unique_fd program;
    base::unique_fd other;
};
// CLOEXEC both. errno as the kernel says.
base::result<bell_pair> make_bell();
// What makes a unix stream socket an end of a doorbell: a small send buffer, and urgent tokens are read as others are.
// For an end that was dialled or accepted.
void tune_bell(int fd) noexcept;
// And an end that carries bytes itself (plain mode). Its buffer holds so many, or as many as the system lets this
// process have (net.core.wmem_max).
void tune_plain(int fd, size_t bytes) noexcept;
// Before the ends part. One token that nobody takes lies at the other end from now on: when that end closes
// without having read it, the program's end shows ERR as well as HUP, as a reset TCP connection does (an orderly end
// reads it first). And the program's end carries the connection's id in the kernel itself, so that it is known
// again after exec, or after it was sent to another process.
void prepare_bell(int program_end, uint64_t id) noexcept;
inline constexpr uint32_t resident_tokens = 1;
// The second half of it alone. The mark is a hint that it is worth while to ask the daemon; it gives no right.
void mark_bell(int fd, uint64_t id) noexcept;
// The mark of a doorbell or door; 0 for any other descriptor.
uint64_t mark_of_bell(int fd) noexcept;
// How this kernel counts: tokens until the end is not writable, and until it refuses.
struct bell_limits {
    unsigned until_unwritable = 0;
    unsigned until_refused = 0;
    // The wake protocol needs room for a few tokens past "not writable" (tests/explore: top-ups and an answer to a
    // reader that waits for edges may overlap), and OUT while one lies unread.
    bool usable() const noexcept { return until_unwritable >= 4 && until_refused >= until_unwritable + 4; }
};
base::result<bell_limits> measure_bell();

}  // namespace vmsgr::shm
