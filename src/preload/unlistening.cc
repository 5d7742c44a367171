// A listener leaves the daemon: its last number is closed, it is shut down, or somebody without the library gets it.
#include <errno.h>
#include <poll.h>

#include <new>

#include "base/clock.hh"
#include "base/pages.hh"
#include "base/sockets.hh"
#include "base/sys.hh"
#include "client/session.hh"
#include "preload/listening.hh"
#include "preload/real.hh"
#include "preload/runtime.hh"
#include "preload/swap.hh"
#include "preload/vfork_child.hh"
#include "proto/control.hh"

namespace vmsgr::preload {

void leave_daemon(listener_part& part) noexcept {
    real.shutdown(part.door.lifeline, SHUT_WR);
    pollfd p{part.door.lifeline, 0, 0};
    const base::deadline end(client::request_timeout_ms);
    while ((p.revents & POLLHUP) == 0 && end.left_ms() != 0) {
        sys::poll(&p, 1, end.left_ms());
    }
}

bool put_kernel_socket_behind(int fd, object* o) noexcept {
    table_lock l;
    auto& part = o->listener;
    if (!part.by_daemon.load() || o->dead || at_number(fd) != o) {
        return false;
    }
    copy_description(fd, part.kernel_fd);
    part.by_daemon.store(false);
    swap_behind(fd, o, o, part.kernel_fd);
    return true;
}

namespace {

// On a busy machine a relative that was woken takes a while to run; what it has not accepted by then is reset.
constexpr int relatives_accept_ms = 1000;

// Until nothing waits in the door, or the time is over.
void await_empty(int door, int ms) noexcept {
    const base::deadline until(ms);
    for (pollfd p{door, POLLIN, 0}; until.left_ms() != 0 && sys::poll(&p, 1, 0) == 1;) {
        sys::poll(nullptr, 0, 1);
    }
}

void reset_waiting(int door) noexcept {
    for (;;) {
        pollfd p{door, POLLIN, 0};
        const int fd = sys::poll(&p, 1, 0) == 1 ? int(sys::call(SYS_accept4, door, nullptr, nullptr, SOCK_CLOEXEC))
                                                : -1;
        if (fd < 0) {
            return;
        }
        proto::discard(base::unique_fd(fd));
    }
}

}  // namespace

void give_listener_to_kernel(int fd, object* o) noexcept {
    auto& part = o->listener;
    if (part.page->given.exchange(1) == 0) {
        leave_daemon(part);
        // Relatives that sleep on the door are woken by the daemon's knock, and take what waits.
        await_empty(fd, part.page->holders.load() > 1 ? relatives_accept_ms : 0);
        reset_waiting(fd);
        if (listeners_given != nullptr) {
            listeners_given->fetch_add(1, std::memory_order_release);
        }
        real.shutdown(fd, SHUT_RD);  // and who sleeps still
    }
    if (in_vfork_child()) {
        // The child may have put something else on our number.
        if (base::socket_option(part.kernel_fd, SO_ACCEPTCONN) == 1 &&
            base::local_name(part.kernel_fd) == part.door.own) {
            replace_in_child(fd, part.kernel_fd);
        }
    } else {
        put_kernel_socket_behind(fd, o);
    }
}

std::atomic<uint32_t>* listeners_given = nullptr;
std::atomic<uint32_t> listeners_given_seen{0};

void share_listeners_given() noexcept {
    void* at = base::new_pages_for_forks(shm::page);
    listeners_given = at == nullptr ? nullptr : new (at) std::atomic<uint32_t>{0};
}

void follow_given_listeners() noexcept {
    const int saved = errno;
    listeners_given_seen.store(listeners_given->load(std::memory_order_acquire), std::memory_order_relaxed);
    for (int fd = 0; fd <= highest_number(); ++fd) {
        use o(fd, kind::listener);
        if (o && o->listener.by_daemon.load() && o->listener.page->given.load() != 0) {
            put_kernel_socket_behind(fd, o.get());
        }
    }
    errno = saved;
}

void shut_listener(int fd, object* o) noexcept {
    auto& part = o->listener;
    part.shut.store(true);
    if (part.by_daemon.load()) {
        real.shutdown(fd, SHUT_RDWR);  // refuses who dials, and wakes who waits in accept
        reset_waiting(fd);
        leave_daemon(part);  // or it would bring to this door what comes once the program listens again
        put_kernel_socket_behind(fd, o);
    }
}

}  // namespace vmsgr::preload
