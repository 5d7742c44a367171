// This process's session with vmsgrd: the control socket and the session segment. Attached lazily, on the first
// call that needs it; attached again by itself when the daemon was away. Never used across fork: a child has a
// session of its own.
//
// Any thread. Nothing here allocates from the heap, as it runs inside hooks. A stalled daemon costs a caller
// attach_timeout_ms once and is then left alone for retry_ms.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/address.hh"
#include "base/clock.hh"
#include "base/signal_lock.hh"
#include "base/unique_fd.hh"
#include "proto/control.hh"
#include "proto/control_client.hh"
#include "proto/dial.hh"
#include "proto/plain_cause.hh"
#include "proto/routes.hh"
#include "shm/layout.hh"

namespace vmsgr::client {

inline constexpr int attach_timeout_ms = 500;
inline constexpr int request_timeout_ms = 1000;
inline constexpr int64_t retry_ms = 100;

// A connection that the daemon shall carry.
struct job {
    uint64_t id = 0;             // session::next_id()
    int fd = -1;                 // the program's number, to be shown
    base::address peer;
    std::string_view route;
    uint32_t slot = 0;           // of the arena that goes with it
    std::optional<proto::without_trunk> by_trunk{};  // the socket is only bound, the daemon finds a way
    std::optional<linger>
        own_linger{};  // the socket lingers for no time, and is to linger so (proto::feature_end_mark)
};

// A listener of this daemon, as the registry shows it.
struct found_listener {
    uint64_t id = 0;  // 0: none
    uint32_t flags = 0;  // shm::listening_flag
    char door[shm::door_bytes] = {};
};

// What the daemon gives for a listening socket.
struct listening {
    base::unique_fd door;      // takes the number of the socket
    base::unique_fd lifeline;  // hangs up with the daemon; our end tells it that the listener is closed
    proto::secret word{};
    uint64_t id = 0;
};

// What a relative left with the daemon for a descriptor.
struct inherited {
    std::array<base::unique_fd, proto::fds_max> fds;
    size_t fd_count = 0;
    std::array<uint8_t, proto::data_bytes> data{};
};

class session {
    base::signal_lock _lock;
    int _control = -1;
    // What an earlier daemon gave stays mapped, as another thread may still look at it.
    std::atomic<shm::session_segment*> _segment{nullptr};
    std::atomic<const shm::listening_registry*> _registry{nullptr};
    std::atomic<uint16_t> _registry_turn{0};  // what the segment said of that one
    uint32_t _ring_bytes = shm::ring_bytes_default;
    uint64_t _offered = proto::features_ours;
    uint64_t _features = 0;
    uint64_t _session_id = 0;
    std::atomic<uint32_t> _ids{0};
    uint32_t _serial = 0;
    std::atomic<uint32_t> _entry_hint{0};
    int64_t _not_before_ms = 0;
    uint64_t _attached = 0;  // how often
    uid_t _attached_as = 0;  // this process's effective user then: the daemon knows it as that one's
    proto::attach_failure _failure;
    proto::route_table _routes;   // the daemon's, of session _routes_of
    uint64_t _routes_of = 0;
    proto::document_piece _piece;  // as they come
    char _path[108] = {};
    char _program[shm::name_bytes] = {};

public:
    // Before anything else, once.
    void configure(const char* path, std::string_view program, uint64_t features = proto::features_ours) noexcept;
    const char* path() const noexcept { return _path; }

    // Attached now, or could be attached now.
    bool ensure() noexcept;
    // The same, and as the effective user that this process has now: what it deposits, its heirs may adopt.
    bool ensure_as_self() noexcept;
    proto::attach_failure last_failure() noexcept;
    uint32_t ring_bytes() const noexcept { return _ring_bytes; }
    uint32_t local_ring_bytes() const noexcept { return shm::local_ring_bytes(_ring_bytes); }
    // The daemon's number for this session.
    uint64_t id() noexcept;
    // A new number for a connection: public, it gives nobody anything.
    uint64_t next_id() noexcept;
    // The daemon finds ways by itself (job::by_trunk).
    bool knows_trunks() const noexcept { return (_features & proto::feature_trunk) != 0; }
    // It restores what a socket that is handed over was marked with (job::own_linger).
    bool knows_end_marks() const noexcept { return (_features & proto::feature_end_mark) != 0; }

    // The way that the daemon's own routes give this program, for one that was given none: via::direct where none
    // matches, as it came to the daemon by itself. Asked once a session. 0, or an errno: no answer.
    int way(proto::role who, const base::address& a, proto::route& out) noexcept;

    // The listener of this daemon to which the kernel would connect a socket of this network namespace
    // (SO_NETNS_COOKIE) for this peer. `hash` chooses among those that share an address (SO_REUSEPORT).
    found_listener find_listener(uint64_t netns, const base::address& peer, uint32_t hash) noexcept;
    // The one that listens on exactly this address in another namespace, where the daemon says that an address means
    // the same in all of them. The caller has no such address itself, and has a way there.
    found_listener find_listener_elsewhere(uint64_t netns, const base::address& peer, uint32_t hash) noexcept;
    bool one_address_plan() noexcept;
    // The daemon still serves the listener with this number.
    bool lists(uint64_t listener) const noexcept;

    // Posts a job and sends its descriptors (proto::kind::connect). False: no daemon, or its lists are full, or a
    // limit of the daemon's is nearly used up: fall back.
    bool post_connect(const job& j, std::span<const int> fds) noexcept;
    // 0, or an errno: the socket stays the kernel's.
    int listen(int socket, int shown, std::string_view route, uint32_t flags, int backlog, listening& out) noexcept;
    // Programs do not find this listener any more when this returns.
    void unlist(int door) noexcept;

    // The kernel socket of connection `id`, whose doorbell is shown; or -errno.
    int borrow(int shown, uint64_t id, bool plain) noexcept;
    // The same for good, where the daemon has called it back (proto::kind::go_back); -EAGAIN: not now.
    int go_back(int shown, uint64_t id) noexcept;
    // Leaves with the daemon what an heir of this descriptor needs. It is there once await_settled() has returned.
    // For a door: its listener, whose socket the daemon has.
    void deposit(int shown, std::span<const int> left, std::span<const uint8_t> data, uint64_t listener = 0) noexcept;
    void await_settled() noexcept;
    // 0, or an errno.
    int adopt(int shown, inherited& out) noexcept;

    // Shows a local connection to whoever asks the daemon; null: no room, or no session.
    struct local_facts {
        int fd = -1;
        base::address local, peer;
        bool server = false;
        std::string_view route;
    };
    shm::local_entry* show_local(const local_facts& f) noexcept;
    void hide_local(shm::local_entry* e) noexcept;
    // Shows which number a carried connection got here.
    void show_fd(uint32_t slot, uint64_t id, int fd) noexcept;
    // For people: this program carries nothing any more.
    void show_left_to_kernel(proto::plain_cause why) noexcept;
    void count_fall_back() noexcept;
    void count_turned_away() noexcept;

    // In the child of a fork, unlocked: the session is the parent's.
    void forget() noexcept;
    void lock_for_fork() noexcept { _lock.lock(); }
    void unlock_after_fork() noexcept { _lock.unlock(); }

private:
    bool attach() noexcept;
    bool has_room() const noexcept;
    template <typename Score>
    found_listener best_listener(uint16_t port, uint32_t hash, Score&& score_of) const noexcept;
    bool failed(proto::attach_failure::step at, int errnum) noexcept;
    bool begin(proto::attached& a) noexcept;
    void detach() noexcept;
    bool set_registry(int fd, uint16_t turn) noexcept;
    bool has_registry() noexcept;
    int ask(proto::request_msg& m, std::span<const int> fds, proto::reply_msg& reply, proto::received& got) noexcept;
    int ask_attached(proto::request_msg& m, std::span<const int> fds, proto::reply_msg& reply,
                     proto::received& got) noexcept;
    int learn_routes() noexcept;
    int ask_for_socket(proto::request_msg& m, int shown) noexcept;
    int send(const proto::request_msg& m, std::span<const int> fds) noexcept;
};

}  // namespace vmsgr::client
