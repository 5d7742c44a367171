#include "preload/swap.hh"

#include <errno.h>
#include <fcntl.h>

#include <algorithm>

#include "base/sys.hh"
#include "client/kept_fds.hh"
#include "preload/real.hh"
#include "preload/runtime.hh"
#include "preload/vfork_child.hh"

namespace vmsgr::preload {

namespace {

int epoll_control(int epfd, int op, int fd, epoll_event* e) noexcept {
    return int(sys::call(SYS_epoll_ctl, epfd, op, fd, e));
}

// Keeps a record of those sets alone that it was in: the kernel knows (see record_registration).
// False: a set has no number here any more by which it could be told; it may live on under another one.
bool leave_sets(object& o) noexcept {
    bool all = true;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < o.registered; ++i) {
        const registration r = o.registrations[i];
        if (epoll_control(r.epfd, EPOLL_CTL_DEL, r.fd, nullptr) == 0) {
            o.registrations[kept++] = r;
        } else {
            all = all && errno == ENOENT;
        }
    }
    o.registered = kept;
    return all;
}

bool replace_keeping_flags(int fd, int kernel_object) noexcept {
    int flags = sys::fcntl(fd, F_GETFD);
    if (flags < 0 && errno == EBADF) {
        return true;  // closed meanwhile
    }
    return vmsgr::preload::replace_number(fd, kernel_object, flags < 0 || (flags & FD_CLOEXEC) != 0);
}

// For hooks_wait.cc: this set is worth a look.
void note_stream_in(int epfd) noexcept {
    if (object* e = at_number(epfd); e != nullptr && e->what == kind::epoll) {
        e->watches_streams.store(true, std::memory_order_relaxed);
    }
}

}  // namespace

void note_interest(client::stream& s, uint32_t events) noexcept {
    if ((events & EPOLLET) != 0) {
        s.watch_edges((events & EPOLLOUT) != 0);
    }
    if ((events & EPOLLPRI) != 0) {
        s.watch_urgent();
    }
}

bool replace_number(int fd, int kernel_object, bool closes_on_exec) noexcept {
    const int flags = closes_on_exec ? O_CLOEXEC : 0;
    if (sys::dup3(kernel_object, fd, flags) == fd) {
        return true;
    }
    const client::room_for_fds room(fd);  // the limit may be below the number by now
    return sys::dup3(kernel_object, fd, flags) == fd;
}

object* swap_behind(int fd, object* from, object* to, int kernel_object, bool* done) noexcept {
    bool all = true;
    if (from == nullptr) {
        all = replace_keeping_flags(fd, kernel_object);
        set_number(fd, to);
        if (done != nullptr) {
            *done = all;
        }
        return nullptr;
    }
    to->cookie.store(0, std::memory_order_relaxed);
    to->listener.deposited.store(0, std::memory_order_relaxed);
    // The old description may live on elsewhere (the daemon holds it): taken out of every set by hand, or
    // its events would go on coming under the program's data.
    leave_sets(*from);
    uint32_t left = from->refs;
    for (int n = from->refs > 1 ? 0 : fd; left != 0 && n <= highest_number(); ++n) {
        if (at_number(n) != from) {
            continue;
        }
        --left;
        all = replace_keeping_flags(n, kernel_object) && all;
        if (from != to) {
            --from->refs;
            ++to->refs;
            table[n].store(to, std::memory_order_seq_cst);
        }
    }
    if (done != nullptr) {
        *done = all;
    }
    for (uint32_t i = 0; i < from->registered; ++i) {
        registration r = from->registrations[i];
        if (epoll_control(r.epfd, EPOLL_CTL_ADD, r.fd, &r.event) != 0) {
            log("epoll set %d does not take descriptor %d again: it was closed", r.epfd, r.fd);
        }
        if (to->stream) {
            note_stream_in(r.epfd);
            note_interest(to->stream, r.event.events);
        }
        if (from != to && reserve_registrations(*to, to->registered + 1)) {
            to->registrations[to->registered++] = r;
        }
    }
    if (from == to) {
        return nullptr;
    }
    from->registered = 0;
    from->dead = true;
    return from;
}

void replace_connection(int fd, int by) noexcept {
    copy_description(fd, by);
    if (in_vfork_child()) {
        return replace_in_child(fd, by);
    }
    table_lock l;
    if (object* o = at_number(fd); o != nullptr && o->what == kind::stream) {
        swap_behind(fd, o, o, by);
    } else {
        replace_keeping_flags(fd, by);
    }
}

void become_socket(int fd, int socket, bool first) noexcept {
    if (first) {
        copy_description(fd, socket);
    }
    object* old = nullptr;
    {
        table_lock l;
        object* from = at_number(fd);
        if (from == nullptr || from->what != kind::stream) {
            return;  // closed meanwhile
        }
        if (object* fresh = new_object(kind::socket)) {
            old = swap_behind(fd, from, fresh, socket);
        } else {
            swap_behind(fd, from, from, socket);
            for (int n = 0; old == nullptr && n <= highest_number(); ++n) {
                old = at_number(n) == from ? clear_number(n) : nullptr;  // with the last one it is dead
            }
        }
    }
    if (old != nullptr) {
        finish(old);
    }
}

bool take_out_of_sets(object* o) noexcept {
    const bool all = leave_sets(*o);
    o->registered = 0;
    return all && !o->unfollowed;
}

bool is_recorded(const object& o, int epfd, int op, int fd) noexcept {
    // Another thread may be changing them: a record that is not seen is made once more, with the lock.
    auto seen = [](const auto& field) { return __atomic_load_n(&field, __ATOMIC_RELAXED); };
    const uint32_t n = std::min(seen(o.registered), registrations_kept);
    if (op != EPOLL_CTL_ADD) {
        return op == EPOLL_CTL_MOD || n <= registrations_kept / 2;
    }
    const registration* all = __atomic_load_n(&o.registrations, __ATOMIC_ACQUIRE);
    return std::any_of(all, all + n, [&](auto& r) { return seen(r.fd) == fd && seen(r.epfd) == epfd; });
}

void record_registration(int epfd, int op, int fd, const epoll_event* event) noexcept {
    object* o = at_number(fd);
    if (o == nullptr) {
        return;
    }
    uint32_t at = 0;
    while (at < o->registered && (o->registrations[at].fd != fd || o->registrations[at].epfd != epfd)) {
        ++at;
    }
    if (op == EPOLL_CTL_DEL) {
        if (at < o->registered) {
            o->registrations[at] = o->registrations[--o->registered];
        }
        return;
    }
    if (event == nullptr) {
        return;
    }
    if (at == o->registered) {
        if (!reserve_registrations(*o, at + 1)) {
            log("no memory to follow the epoll sets of descriptor %d", fd);
            o->unfollowed = true;
            return;
        }
        ++o->registered;
    }
    o->registrations[at] = {fd, epfd, *event};
    if (at_number(epfd) == nullptr) {
        if (object* e = new_object(kind::epoll)) {
            set_number(epfd, e);
        }
    }
    if (o->what == kind::stream) {
        note_stream_in(epfd);
    }
}

}  // namespace vmsgr::preload
