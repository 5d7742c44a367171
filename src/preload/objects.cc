#include "preload/objects.hh"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <new>

#include "base/pages.hh"
#include "base/signal_lock.hh"
#include "base/sys.hh"
#include "preload/event_loop.hh"
#include "preload/own_numbers.hh"
#include "preload/real.hh"
#include "preload/runtime.hh"

namespace vmsgr::preload {

std::atomic<object*>* table = nullptr;

namespace {

constinit base::signal_lock lock;
object* free_objects = nullptr;
int highest = -1;

constexpr size_t objects_a_chunk = 128;

bool grow() noexcept {
    auto* objects = static_cast<object*>(base::new_pages(objects_a_chunk * sizeof(object)));
    if (objects == nullptr) {
        return false;
    }
    for (size_t i = 0; i < objects_a_chunk; ++i) {
        object* o = new (&objects[i]) object;
        o->next_free = free_objects;
        free_objects = o;
    }
    return true;
}

bool is_first_number(const object* o, int fd) noexcept {
    if (o->refs == 1) {
        return true;
    }
    int first = 0;
    while (table[first].load(std::memory_order_relaxed) != o) {
        ++first;
    }
    return first == fd;
}

}  // namespace

listener_page* make_listener_page(uint32_t holders) noexcept {
    void* at = base::new_pages_for_forks(shm::page);
    return at == nullptr ? nullptr : new (at) listener_page{holders};
}

void drop_listener_page(listener_page* page) noexcept {
    if (page != nullptr) {
        ::munmap(page, shm::page);
    }
}

bool make_table() noexcept {
    table = static_cast<std::atomic<object*>*>(base::new_pages(fds_max * sizeof(std::atomic<object*>)));
    return table != nullptr;
}

use::use(int fd) noexcept : frame_hold(&jump_out) {
    if (!known(fd)) {
        return;
    }
    enlist();
    for (;;) {
        object* o = table[fd].load(std::memory_order_acquire);
        if (o == nullptr) {
            delist();
            return;
        }
        o->users.fetch_add(1, std::memory_order_seq_cst);
        _o = o;
        if (table[fd].load(std::memory_order_seq_cst) == o) {
            return;
        }
        let_go();
    }
}

void use::drop() noexcept {
    if (_o != nullptr) {
        let_go();
        delist();
    }
}

void use::let_go() noexcept {
    if (_o == nullptr) {
        return;
    }
    object* o = _o;
    _o = nullptr;
    // In this order: whoever takes the last number away sets dead and then looks at the users (finish). One of the two
    // sees the other. Objects are never given back to the system, so a late look is harmless.
    if (o->users.fetch_sub(1, std::memory_order_seq_cst) == 1 && o->dead.load(std::memory_order_seq_cst)) {
        finish(o);
    }
}

table_lock::table_lock() noexcept { lock.lock(); }
table_lock::~table_lock() { lock.unlock(); }

object* new_object(kind what) noexcept {
    if (free_objects == nullptr && !grow()) {
        return nullptr;
    }
    object* o = free_objects;
    free_objects = o->next_free;
    o->what = what;
    o->dead.store(false, std::memory_order_relaxed);
    o->refs = 0;
    o->registered = 0;
    o->unfollowed = false;
    o->bound = false;
    o->spawned.store(false, std::memory_order_relaxed);
    o->cookie.store(0, std::memory_order_relaxed);
    o->listener.deposited.store(0, std::memory_order_relaxed);
    o->watches_streams.store(false, std::memory_order_relaxed);
    o->is_followed.store(false, std::memory_order_release);
    o->served_in.store(nullptr, std::memory_order_relaxed);
    o->wants_signals.store(known_as::unknown_yet, std::memory_order_relaxed);
    o->options = {};
    o->kept_at = nullptr;
    return o;
}

void give_back_object(object* o) noexcept {
    o->what = kind::none;
    o->next_free = free_objects;
    free_objects = o;
}

spare_object::spare_object() noexcept {
    table_lock l;
    _o = new_object(kind::none);
}

spare_object::~spare_object() {
    if (_o != nullptr) {
        table_lock l;
        give_back_object(_o);
    }
}

object* spare_object::take(kind what) noexcept {
    object* o = std::exchange(_o, nullptr);
    o->what = what;
    return o;
}

object* set_number(int fd, object* o) noexcept {
    if (unsigned(fd) >= unsigned(fds_max)) {
        return nullptr;
    }
    object* stale = clear_number(fd);
    ++o->refs;
    if (fd > highest) {
        highest = fd;
    }
    table[fd].store(o, std::memory_order_seq_cst);
    return stale;
}

object* at_number(int fd) noexcept { return known(fd) ? table[fd].load(std::memory_order_relaxed) : nullptr; }

object* clear_number(int fd) noexcept {
    object* o = at_number(fd);
    if (o == nullptr) {
        return nullptr;
    }
    table[fd].store(nullptr, std::memory_order_seq_cst);
    forget_in_loops(*o, fd);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < o->registered; ++i) {
        if (o->registrations[i].fd != fd) {
            o->registrations[kept++] = o->registrations[i];
        }
    }
    o->registered = kept;
    if (--o->refs != 0) {
        return nullptr;
    }
    if (o->what == kind::epoll) {
        forget_epoll(fd);
    }
    o->dead.store(true, std::memory_order_seq_cst);
    return o;
}

object* add_alias(int from, int to) noexcept {
    object* o = at_number(from);
    return o != nullptr ? set_number(to, o) : nullptr;
}

void forget_epoll(int epfd) noexcept {
    for (int fd = 0; fd <= highest; ++fd) {
        object* o = at_number(fd);
        if (o == nullptr) {
            continue;
        }
        uint32_t kept = 0;
        for (uint32_t i = 0; i < o->registered; ++i) {
            if (o->registrations[i].epfd != epfd) {
                o->registrations[kept++] = o->registrations[i];
            }
        }
        // The set may live on by a duplicate that nobody has told of.
        o->unfollowed = o->unfollowed || kept != o->registered;
        o->registered = kept;
    }
}

int highest_number() noexcept { return highest; }

void finish(object* o) noexcept {
    base::signals_blocked together;
    client::stream stream;
    int port_fd = -1, kernel_fd = -1, lifeline = -1, parked = -1;
    {
        table_lock l;
        const bool in_use = o->users.load(std::memory_order_seq_cst) != 0;
        if (!o->dead.load(std::memory_order_relaxed) || in_use || o->what == kind::none) {
            return;  // somebody else did it, or will
        }
        const kind was = std::exchange(o->what, kind::none);
        parked = o->stream ? o->stream.take_parked() : -1;
        if (parked >= 0) {
            o->stream.close_last(parked, false);  // its numbers went while calls slept on it
        }
        stream = std::move(o->stream);
        port_fd = std::exchange(o->port_fd, -1);
        if (was == kind::listener) {
            kernel_fd = std::exchange(o->listener.kernel_fd, -1);
            lifeline = std::exchange(o->listener.door.lifeline, -1);
            drop_listener_page(std::exchange(o->listener.page, nullptr));
            o->listener.by_daemon.store(false);
            o->listener.shut.store(false);
            o->listener.kernel_waiters.store(0);
            o->listener.timeouts = false;
            o->listener.told_shortage.store(false);
        }
        give_back_object(o);
    }
    runtime().session.hide_local(stream.shown());
    stream.recycle();
    for (int fd : {port_fd, kernel_fd, lifeline, parked}) {
        if (fd >= 0) {
            close_internal(fd);
        }
    }
}

void mark_spawned(int fd) noexcept {
    if (use o(fd); o) {
        o->spawned.store(true, std::memory_order_relaxed);
    }
}

bool reserve_registrations(object& o, uint32_t n) noexcept {
    if (n <= o.registrations_max) {
        return true;
    }
    const uint32_t room = std::max(2 * o.registrations_max, n);
    auto* more = static_cast<registration*>(base::new_pages(room * sizeof(registration)));
    if (more == nullptr) {
        return false;
    }
    std::copy_n(o.registrations, o.registered, more);
    // The smaller one stays for whoever reads without the lock (is_recorded).
    __atomic_store_n(&o.registrations, more, __ATOMIC_RELEASE);
    o.registrations_max = room;
    return true;
}

void forget_number(int fd) noexcept {
    object* stale = nullptr;
    {
        table_lock l;
        stale = clear_number(fd);
    }
    if (stale != nullptr) {
        if (stale->what == kind::stream) {
            stale->stream.give_up_hold();
        }
        finish(stale);
    }
}

bool is_number_of(int fd, const void* stream) noexcept {
    object* o = known(fd) ? table[fd].load(std::memory_order_seq_cst) : nullptr;
    return o != nullptr && &o->stream == stream;
}

void send_late_token(int fd, const void* stream) noexcept {
    if (use o(fd, kind::stream); o && &o->stream == stream) {
        o->stream.send_late_token(fd);
    }
}

// By a process that did not make it: a relative has, whose session is not ours.
void show_connection(int fd, const void* stream) noexcept {
    if (use o(fd, kind::stream); o && &o->stream == stream) {
        const auto& page = o->stream.page();
        const std::string_view route(page.route, strnlen(page.route, sizeof page.route));
        o->stream.show_in(runtime().session.show_local({fd, page.local, page.peer, page.which == 1, route}));
        if (o->stream.is_plain()) {
            o->stream.note_plain();
        }
    }
}

bool show_late_bytes(int fd, const void* stream, int64_t min_age_ns) noexcept {
    use o(fd, kind::stream);
    return o && &o->stream == stream && o->stream.show_late_bytes(fd, min_age_ns);
}

void pay_debts() noexcept {
    for (int fd = 0; fd <= highest; ++fd) {
        if (known(fd)) {
            if (use o(fd, kind::stream); o) {
                o->stream.pay(fd);
            }
        }
    }
}

// The child's share is counted before it exists: the parent may close its own number at once.
void lock_table_for_fork() noexcept {
    lock.lock();
    for (int fd = 0; fd <= highest; ++fd) {
        object* o = at_number(fd);
        if (o != nullptr && o->what == kind::listener && is_first_number(o, fd)) {
            o->listener.page->holders.fetch_add(1);
        } else if (o != nullptr && o->what == kind::stream && is_first_number(o, fd)) {
            o->stream.add_holder();
        }
    }
}

void unlock_table_after_fork(bool in_child) noexcept {
    for (int fd = 0; in_child && fd <= highest; ++fd) {
        // The other threads and their calls are not here.
        if (object* o = at_number(fd)) {
            o->users.store(0);
            o->listener.kernel_waiters.store(0);
            if (o->what == kind::stream) {
                o->stream.show_when_used();
            }
            if (o->what == kind::epoll && o->loop != nullptr) {
                o->loop->retire_in_child();
            }
        }
    }
    lock.unlock();
}

}  // namespace vmsgr::preload
