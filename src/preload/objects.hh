// What stands behind each descriptor number of this process, as far as it concerns us.
//
// Looking up takes no lock: one load for a number that is not ours; for ours a count of users keeps the object
// until the last call on it has left, as the kernel keeps a file. Objects are never given back to the system, so
// a late look at a dead one is harmless. Changes are made under the table's lock, with all signals blocked (a
// handler may call close()). After fork the child has its own copy of all this.
#pragma once

#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>

#include <atomic>
#include <cstdint>

#include "base/frame_hold.hh"
#include "client/dialled.hh"
#include "client/streams/stream.hh"
#include "proto/routes.hh"

namespace vmsgr::preload {

enum class kind : uint8_t {
    none,
    socket,    // a TCP socket not decided yet: the kernel's, watched for epoll registrations and dups
    stream,    // a conduit
    listener,  // listens through the daemon, or waits for it to come back
    epoll,     // an epoll descriptor that knows one of ours
    internal,  // the library's own; the program may not touch it
};

// An epoll registration, to be made again when the object behind a number is swapped.
struct registration {
    int fd;
    int epfd;
    epoll_event event;
};
inline constexpr uint32_t registrations_kept = 8;  // in the object itself; more in memory of their own

// Shared with forks, so that the last holder of a listener tells the daemon.
struct listener_page {
    std::atomic<uint32_t> holders;
    std::atomic<uint32_t> given{0};  // somebody without the library has it: it stays the kernel's for all
};
// Null: no memory. A drop unmaps this process's view of it alone; null is no page.
listener_page* make_listener_page(uint32_t holders) noexcept;
void drop_listener_page(listener_page* page) noexcept;

struct listener_part {
    int kernel_fd = -1;               // our copy of the listening socket, internal
    client::daemon_listener door;     // what the number is while the daemon serves it
    listener_page* page = nullptr;
    const proto::route* route = nullptr;
    std::atomic<uint32_t> backlog{0};
    std::atomic<bool> by_daemon{false};  // the number is a door; false: it is the kernel socket
    std::atomic<bool> shut{false};
    std::atomic<uint32_t> kernel_waiters{0};  // threads inside the kernel's accept on it
    std::atomic<uint64_t> deposited{0};  // the session that left it with the daemon for heirs
    std::atomic<bool> told_shortage{false};  // accept() has said EMFILE, and had no success since
    bool timeouts = false;            // SO_RCVTIMEO or SO_SNDTIMEO set: accepted ones inherit
};

class event_loop;
enum class known_as : uint8_t { unknown_yet, no, yes };

struct object {
    std::atomic<uint32_t> users{0};
    kind what = kind::none;
    std::atomic<bool> dead{false};  // no number leads here any more; freed with the last user
    uint32_t refs = 0;     // numbers of this process
    uint32_t registered = 0;
    std::atomic<bool> spawned{false};  // a spawn's actions name it: a child may get it whatever its flags
    std::atomic<uint64_t> cookie{0};  // the kernel's number of what stands behind its numbers; 0: not asked
    bool bound = false;  // a socket that the program has bound
    bool unfollowed = false;  // in an epoll set that is not among `registrations`: there was no memory
    std::atomic<bool> watches_streams{false};  // an epoll set: one of ours was ever in it
    std::atomic<bool> is_followed{false};      // an epoll set: `loop` has known it from its beginning
    event_loop* loop = nullptr;                // never given back
    std::atomic<event_loop*> served_in{nullptr};  // a stream: the loop that serves it
    std::atomic<known_as> wants_signals{known_as::unknown_yet};  // a stream: O_ASYNC
    registration own_registrations[registrations_kept];
    registration* registrations = own_registrations;  // grows, and is never given back
    uint32_t registrations_max = registrations_kept;
    client::option_list options;  // set while it was a socket or a listener
    client::stream stream;
    int port_fd = -1;         // a stream's bound TCP socket, internal: it keeps the port of a local connection
    listener_part listener;
    int* kept_at = nullptr;   // internal: the variable that holds the number
    object* next_free = nullptr;
};

// Pins an object for the time of a call.
class use final : public base::frame_hold {
    object* _o = nullptr;

    static void jump_out(frame_hold& h) noexcept { static_cast<use&>(h).let_go(); }
    void let_go() noexcept;

public:
    explicit use(int fd) noexcept;
    use(int fd, kind only) noexcept : use(fd) {
        if (_o != nullptr && _o->what != only) {
            drop();
        }
    }
    ~use() { drop(); }
    void drop() noexcept;
    object* get() const noexcept { return _o; }
    object* operator->() const noexcept { return _o; }
    explicit operator bool() const noexcept { return _o != nullptr; }
};

inline constexpr int fds_max = 1 << 20;
extern std::atomic<object*>* table;  // null while the library is inert

// Is anything known about this number? The only cost of a call that is not ours.
inline bool known(int fd) noexcept {
    return table != nullptr && unsigned(fd) < unsigned(fds_max) && table[fd].load(std::memory_order_relaxed) != nullptr;
}

bool make_table() noexcept;

// Holds the table's lock with all signals blocked. Recursive use is an error.
class table_lock {
public:
    table_lock() noexcept;
    ~table_lock();
    table_lock(const table_lock&) = delete;
    table_lock& operator=(const table_lock&) = delete;
};

// A place for what a number becomes, taken before anything is done that cannot be undone. Without the lock.
class spare_object {
    object* _o;

public:
    spare_object() noexcept;
    ~spare_object();
    spare_object(const spare_object&) = delete;
    spare_object& operator=(const spare_object&) = delete;
    explicit operator bool() const noexcept { return _o != nullptr; }
    // Under the lock, once.
    object* take(kind what) noexcept;
};

// All below: under the table's lock.
object* new_object(kind what) noexcept;  // null: out of memory
void give_back_object(object* o) noexcept;  // one that no number got
// What was known of fd before (a number closed behind our back) is forgotten; returned to be finish()ed.
object* set_number(int fd, object* o) noexcept;
// The number is closed or replaced. Returns the object if that was its last number; finish() it then.
object* clear_number(int fd) noexcept;
// The object that was known at `to` before, if that was its last number: finish() it.
object* add_alias(int from, int to) noexcept;
object* at_number(int fd) noexcept;
void forget_epoll(int epfd) noexcept;
int highest_number() noexcept;

// Frees what a dead object holds once no call uses it. Without the lock.
void finish(object* o) noexcept;

// A new program may get this one whatever its FD_CLOEXEC says: under another number, or by a spawn's actions.
void mark_spawned(int fd) noexcept;
// Room for n registrations. Under the lock. False: no memory.
bool reserve_registrations(object& o, uint32_t n) noexcept;

// The number was closed behind our back, and is something else now. Without the lock.
void forget_number(int fd) noexcept;
// libc closes the number inside: as close() does, without closing it (hooks_fd.cc).
void leave_file(int fd) noexcept;

// For client::fd_rules, without the lock. The first one's caller uses the stream.
bool is_number_of(int fd, const void* stream) noexcept;
void send_late_token(int fd, const void* stream) noexcept;
void show_connection(int fd, const void* stream) noexcept;
bool show_late_bytes(int fd, const void* stream, int64_t min_age_ns) noexcept;

// Sends what streams in plain mode still owe. Without the lock.
void pay_debts() noexcept;

void lock_table_for_fork() noexcept;
void unlock_table_after_fork(bool in_child) noexcept;

}  // namespace vmsgr::preload
