// This process's session with vmsgrd: the control socket and the session segment. Attached lazily, on the first
// call that needs it; attached again by itself when the daemon was away. Never used across fork: a child has a
// session of its own.
//
// Any thread. Nothing here allocates from the heap, as it runs inside hooks. A stalled daemon costs a caller
// attach_timeout_ms once and is then left alone for retry_ms.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

#include "base/address.hh"
#include "base/clock.hh"
#include "base/signal_lock.hh"
#include "base/unique_fd.hh"
#include "proto/control.hh"
#include "proto/routes.hh"
#include "shm/layout.hh"

namespace vmsgr::client {

inline constexpr int attach_timeout_ms = 500;
inline constexpr int request_timeout_ms = 1000;
inline constexpr int64_t retry_ms = 100;

struct job {
    uint64_t key = 0;
    int fd = -1;                 // the program's number, for people
    base::address address;       // peer of a connect, local of a listen
    std::string_view route;
    uint32_t ring_bytes = 0;     // connect only
    uint32_t listen_flags = 0;   // listen only: shm::listen_flag
    uint32_t backlog = 0;        // listen only
    bool by_trunk = false;       // connect only: the socket is only bound, the daemon finds a way
    uint64_t listener = 0;       // connect only: who gets it, where both ends are programs of this daemon
    uint64_t session = 0;        // connect only, 0: any; the one by which the daemon knows the memory already
};

// Why there is no session, for whoever can tell people. errnum 0: it has not failed.
struct attach_failure {
    enum class step : uint8_t { local, reach, answer, refused, version };
    step at = step::local;  // local: our own descriptors or memory
    int errnum = 0;
    char text[168] = {};    // the daemon's own, when it refused
};

class session {
    base::signal_lock _lock;
    int _control = -1;
    shm::session_segment* _segment = nullptr;
    const shm::listening_registry* _registry = nullptr;
    uint32_t _ring_bytes = shm::ring_bytes_default;
    uint64_t _features = 0;
    int64_t _not_before_ms = 0;
    uint64_t _attached = 0;  // how often
    attach_failure _failure;
    proto::route_table _routes;   // the daemon's, of session _routes_of
    uint64_t _routes_of = 0;
    char _path[108] = {};
    char _program[shm::name_bytes] = {};
    void (*_guard)(int& fd) = nullptr;
    void (*_close)(int fd) = nullptr;

public:
    // Before anything else, once. `guard` may move a new control socket to another number and protect it;
    // `close` ends what it did. Both are called under the session's lock.
    void configure(const char* path, std::string_view program, void (*guard)(int& fd), void (*close)(int fd)) noexcept;

    // Attached now, or could be attached now.
    bool ensure() noexcept;
    attach_failure last_failure() noexcept;
    uint32_t ring_bytes() const noexcept { return _ring_bytes; }
    // Which session of this process it is, counted from 1.
    uint64_t current() noexcept;
    // The daemon finds ways by itself (job::by_trunk).
    bool knows_trunks() const noexcept { return (_features & proto::feature_trunk) != 0; }

    // The way that the daemon's own routes give this program, for one that was given none: via::direct where none
    // matches, as it came to the daemon by itself. Asked once a session. 0, or an errno: no answer.
    int way(proto::role who, const base::address& a, proto::via& out) noexcept;

    // The listener of this daemon to which the kernel would connect a socket of this network namespace
    // (SO_NETNS_COOKIE) for this peer; 0: none, or its queue is full.
    uint64_t find_listener(uint64_t netns, const base::address& peer) noexcept;
    // The one that listens on exactly this address in another namespace, where the daemon says that an address means
    // the same in all of them; 0: none. The caller has no such address itself, and has a way there.
    uint64_t find_listener_elsewhere(uint64_t netns, const base::address& peer) noexcept;

    // Posts a job and sends its descriptors. False: no daemon, or its lists are full: fall back.
    // Nor where a limit of the daemon's is nearly used up: what it cannot take is not given to it. fds: as
    // proto::kind::connect has them.
    bool post_connect(const job& j, std::span<const int> fds) noexcept;
    bool post_listen(const job& j, int socket, int bell) noexcept;

    // The daemon's answer to a request about connection `key`: a descriptor, or -errno.
    int borrow(uint64_t key) noexcept;
    // 0 or an errno: the memory and the end page.
    int adopt(uint64_t key, base::unique_fd& memory, base::unique_fd& page) noexcept;

    // Tells people which number an accepted connection got here.
    void show_fd(uint32_t slot, uint64_t key, int fd) noexcept;
    void count_fall_back() noexcept;
    void count_local_left() noexcept;

    // The program wants number fd for itself: if it is the control socket's, that moves. True: it was.
    bool move_away(int fd) noexcept;

    // In the child of a fork, unlocked: the session is the parent's.
    void forget() noexcept;
    void lock_for_fork() noexcept { _lock.lock(); }
    void unlock_after_fork() noexcept { _lock.unlock(); }

private:
    bool attach() noexcept;
    bool has_room() const noexcept;
    template <typename Score>
    uint64_t best_listener(uint16_t port, Score&& score_of) const noexcept;
    bool failed(attach_failure::step at, int errnum) noexcept;
    void detach() noexcept;
    int request(proto::kind what, uint64_t key, std::span<base::unique_fd> answer) noexcept;
    int ask(proto::kind what, uint64_t key, std::span<base::unique_fd> answer) noexcept;
    int learn_routes() noexcept;
    int send(const proto::request_msg& m, std::span<const int> fds) noexcept;
    template <typename Slot>
    bool post(Slot* slots, uint32_t count, proto::kind what, const job& j, std::span<const int> fds) noexcept;
};

// 64 random bits, never 0.
uint64_t random_key() noexcept;
using base::now_ms;

}  // namespace vmsgr::client
