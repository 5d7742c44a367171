#include "preload/listening.hh"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "base/names.hh"
#include "base/sys.hh"
#include "client/kept.hh"
#include "preload/objects.hh"
#include "preload/real.hh"
#include "preload/runtime.hh"
#include "preload/swap.hh"
#include "proto/control.hh"

namespace vmsgr::preload {

namespace {

// Gives the listening socket to the daemon and puts a doorbell behind the number. False: it stays the kernel's.
bool listen_by_daemon(int fd, object* o) noexcept {
    auto& rt = runtime();
    auto& part = o->listener;
    if (!rt.session.ensure()) {
        return false;
    }
    auto bell = shm::make_listener_bell();
    if (!bell) {
        return false;
    }
    copy_description(part.kernel_fd, bell->program.get());
    shm::never_writable(bell->program.get());
    client::job job{.key = client::random_key(),
                    .fd = fd,
                    .address = base::local_name(part.kernel_fd),
                    .route = part.route->name_text(),
                    .listen_flags = part.route->local ? 0u : shm::listen_no_local,
                    .backlog = part.backlog.load(std::memory_order_relaxed)};
    shm::mark_bell(bell->program.get(), job.key);
    if (!rt.session.post_listen(job, part.kernel_fd, bell->other.get())) {
        return false;
    }
    table_lock l;
    if (o->dead) {
        return false;
    }
    part.by_daemon.store(true);
    swap_behind(fd, o, o, bell->program.get());
    log("listener %d goes through vmsgrd by route '%s'", fd, part.route->name.data());
    return true;
}

// The daemon is gone or has refused: the number becomes the kernel's listening socket, which never stopped.
void listen_by_kernel(int fd, object* o) noexcept {
    {
        table_lock l;
        auto& part = o->listener;
        if (!part.by_daemon.load() || o->dead || at_number(fd) != o) {
            return;  // another thread was faster
        }
        copy_description(fd, part.kernel_fd);
        part.by_daemon.store(false);
        swap_behind(fd, o, o, part.kernel_fd);
    }
    log("vmsgrd is gone: listener %d is served by the kernel", fd);
    runtime().session.count_fall_back();
    watch_for_daemon();
}

// Room for the descriptors of a connection: with none, the message would be taken and they would be lost.
bool room_for_three() noexcept {
    int fds[3];
    int n = 0;
    fds[0] = sys::fcntl(0, F_DUPFD_CLOEXEC, 0);
    if (fds[0] < 0) {
        fds[0] = sys::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);  // 0 may be closed
    }
    while (n < 3 && fds[n] >= 0) {
        if (++n < 3) {
            fds[n] = sys::fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
        }
    }
    int err = errno;
    for (int i = 0; i < n; ++i) {
        sys::close(fds[i]);
    }
    errno = err;
    return n == 3;
}

// Turns a message into a stream on the lowest free number. The number, or -1 with errno.
int take_connection(const proto::accepted_msg& m, proto::received& got, object* listener, int listener_fd,
                    int flags) noexcept {
    // The doorbell came first, so that it got the lowest number, as accept() gives.
    base::unique_fd bell = std::move(got.fds[0]);
    const bool local = (m.flags & proto::accepted_local) != 0;
    // A connection before this one had the same memory, and this process has it mapped still.
    auto kept = local ? client::kept().take(m.key) : std::nullopt;
    auto conduit = kept ? base::result<shm::conduit>(std::move(kept->memory))
                        : shm::open_conduit(got.fds[1].get(), shm::ring_bytes_max);
    auto page = kept ? base::result<shm::mapping>(std::move(kept->page)) : shm::open_end_page(got.fds[2].get());
    if (!conduit || !page) {
        log("a connection came with unusable memory: %s", (conduit ? page.error() : conduit.error()).text.c_str());
        errno = ECONNABORTED;
        return -1;
    }
    auto stream = client::stream::create(std::move(*conduit), std::move(*page), client::phase::up, m.key, local ? 1 : 0,
                                         local ? client::far_end::program : client::far_end::daemon);
    stream.flags().fetch_or(shm::end_accepted, std::memory_order_release);
    if ((m.flags & (proto::accepted_local | proto::accepted_trunk)) != 0) {
        stream.page().options = listener->options;
    }
    if (local) {
        // With a relative that accepts from the same queue, the next one may be that one's, and its memory with it.
        stream.page().listener = listener->listener.page->holders.load(std::memory_order_relaxed) == 1;
    }
    stream.page().local = m.local;
    stream.page().peer = m.peer;
    stream.page().family = m.local.family;
    if (listener->listener.timeouts) {
        copy_description(listener_fd, bell.get());
    }
    sys::fcntl(bell.get(), F_SETFL, O_RDWR | ((flags & SOCK_NONBLOCK) != 0 ? O_NONBLOCK : 0));
    stream.page().nonblocking.store((flags & SOCK_NONBLOCK) != 0, std::memory_order_relaxed);
    if ((flags & SOCK_CLOEXEC) == 0) {
        sys::fcntl(bell.get(), F_SETFD, 0);
    }
    int fd = bell.get();
    object* stale = nullptr;
    {
        table_lock l;
        object* o = new_object(kind::stream);
        if (o == nullptr) {
            errno = ENOMEM;
            return -1;
        }
        o->stream = std::move(stream);
        stale = set_number(fd, o);
    }
    if (stale != nullptr) {
        finish(stale);
    }
    bell.release();
    runtime().session.show_fd(m.slot, m.key, fd);
    return fd;
}

// vmsgrd has no room for this one: it is what the kernel's accept would have given.
int take_kernel_socket(base::unique_fd socket, int flags) noexcept {
    sys::fcntl(socket.get(), F_SETFL, O_RDWR | ((flags & SOCK_NONBLOCK) != 0 ? O_NONBLOCK : 0));
    if ((flags & SOCK_CLOEXEC) == 0) {
        sys::fcntl(socket.get(), F_SETFD, 0);
    }
    object* stale = nullptr;
    {
        table_lock l;
        stale = clear_number(socket.get());
    }
    if (stale != nullptr) {
        finish(stale);
    }
    runtime().session.count_fall_back();
    return socket.release();
}

bool nonblocking(int fd) noexcept { return (sys::fcntl(fd, F_GETFL) & O_NONBLOCK) != 0; }

int accept_by_kernel(int fd, object* o, sockaddr* sa, socklen_t* len, int flags) {
    o->listener.kernel_waiters.fetch_add(1);
    int r = o->listener.by_daemon.load() ? -1 : real.accept4(fd, sa, len, flags);
    if (r < 0 && o->listener.by_daemon.load()) {
        r = -2;
    }
    o->listener.kernel_waiters.fetch_sub(1);
    return r;
}

}  // namespace

int routed_listen(int fd, int backlog) {
    {
        use o(fd, kind::listener);
        if (o) {
            return real.listen(o->listener.kernel_fd, backlog);
        }
    }
    int r = real.listen(fd, backlog);
    if (r != 0) {
        return r;
    }
    auto& rt = runtime();
    base::address local = base::local_name(fd);
    const proto::route* route = local.family != 0 ? rt.routes.match(rt.program, proto::role::server, local) : nullptr;
    int type = 0, protocol = 0;
    socklen_t len = sizeof type;
    if (route == nullptr || route->way == proto::via::posix ||
        sys::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0 || type != SOCK_STREAM ||
        sys::getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) != 0 || protocol != IPPROTO_TCP) {
        return r;
    }
    if (route->way == proto::via::deny) {
        real.shutdown(fd, SHUT_RDWR);  // stops listening
        errno = EACCES;
        return -1;
    }
    int kernel_fd = sys::fcntl(fd, F_DUPFD_CLOEXEC, fd + 1);
    void* page = ::mmap(nullptr, shm::page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (kernel_fd < 0 || page == MAP_FAILED) {
        sys::close(kernel_fd);
        return r;  // no room for ours: the kernel's listener does the job
    }
    make_internal(kernel_fd);
    object* o = nullptr;
    object* old = nullptr;
    {
        table_lock l;
        o = new_object(kind::listener);
        if (o != nullptr) {
            o->listener.kernel_fd = kernel_fd;
            o->listener.page = new (page) listener_page;
            o->listener.page->holders.store(1);
            o->listener.route = route;
            o->listener.backlog.store(uint32_t(std::max(backlog, 0)), std::memory_order_relaxed);
            if (object* before = at_number(fd)) {
                o->options = before->options;
            }
            old = swap_behind(fd, at_number(fd), o, kernel_fd);
        }
    }
    if (o == nullptr) {
        close_internal(kernel_fd);
        return r;
    }
    if (old != nullptr) {
        finish(old);
    }
    if (!listen_by_daemon(fd, o)) {
        rt.session.count_fall_back();
        log("no vmsgrd: listener %d is served by the kernel until it is there", fd);
        watch_for_daemon();
    }
    return 0;
}

int routed_accept(int fd, sockaddr* sa, socklen_t* len, int flags) {
    if ((flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) != 0) {
        errno = EINVAL;
        return -1;
    }
    if (sa != nullptr && len != nullptr && int(*len) < 0) {
        errno = EINVAL;
        return -1;
    }
    for (;;) {
        use o(fd, kind::listener);
        if (!o) {
            return real.accept4(fd, sa, len, flags);
        }
        if (!o->listener.by_daemon.load()) {
            int r = accept_by_kernel(fd, o.get(), sa, len, flags);
            if (r != -2) {
                return r;
            }
            continue;
        }
        if (!room_for_three()) {
            // Never an error that Ceph counts: its fifth in a row aborts an OSD. The connection waits.
            if (nonblocking(fd)) {
                errno = EAGAIN;
            }
            return -1;
        }
        proto::accepted_msg m;
        proto::received got;
        int err = proto::receive_with_fds(fd, &m, sizeof m, 0, got);
        if (err != 0 && err != ECONNRESET) {
            errno = err;
            return -1;
        }
        if (err != 0 || got.bytes == 0) {
            if (o->listener.shut.load()) {
                errno = EINVAL;
                return -1;
            }
            listen_by_kernel(fd, o.get());
            continue;
        }
        const bool plain = got.bytes == sizeof m && (m.flags & proto::accepted_plain) != 0;
        if (got.bytes != sizeof m || m.magic != proto::control_magic || got.fd_count != (plain ? 1 : 3)) {
            log("a connection was lost on listener %d: no descriptors came with it", fd);
            continue;
        }
        int r = plain ? take_kernel_socket(std::move(got.fds[0]), flags)
                      : take_connection(m, got, o.get(), fd, flags);
        if (r < 0) {
            continue;
        }
        base::give_name(m.peer, sa, len);
        return r;
    }
}

bool listeners_wait() noexcept {
    table_lock l;
    for (int fd = 0; fd <= highest_number(); ++fd) {
        object* o = at_number(fd);
        if (o != nullptr && o->what == kind::listener && !o->listener.by_daemon.load() && !o->listener.shut.load()) {
            return true;
        }
    }
    return false;
}

void listen_again() noexcept {
    for (int fd = 0; fd <= highest_number(); ++fd) {
        use o(fd, kind::listener);
        // A thread that sleeps in the kernel's accept would miss what comes over a doorbell: its turn is later.
        if (o && !o->listener.by_daemon.load() && !o->listener.shut.load() && o->listener.kernel_waiters.load() == 0) {
            listen_by_daemon(fd, o.get());
        }
    }
}

object* inherited_listener(uint64_t key) noexcept {
    static constexpr proto::route inherited{.name = {"inherited"}};
    int kernel_fd = runtime().session.borrow(key);
    void* page = ::mmap(nullptr, shm::page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (kernel_fd < 0 || page == MAP_FAILED) {
        sys::close(kernel_fd);
        return nullptr;
    }
    make_internal(kernel_fd);
    table_lock l;
    object* o = new_object(kind::listener);
    if (o != nullptr) {
        auto& rt = runtime();
        const proto::route* route = rt.routes.match(rt.program, proto::role::server, base::local_name(kernel_fd));
        o->listener.kernel_fd = kernel_fd;
        o->listener.page = new (page) listener_page;
        o->listener.page->holders.store(2);  // its relative may hold it still: the last one is never known
        o->listener.route = route != nullptr ? route : &inherited;
        o->listener.by_daemon.store(true);
    }
    return o;
}

void stop_listening(object* o, int fd) noexcept {
    auto& part = o->listener;
    if (part.page->holders.fetch_sub(1) != 1 || !part.by_daemon.load()) {
        return;
    }
    part.shut.store(true);
    real.shutdown(fd, SHUT_WR);
    pollfd p{fd, 0, 0};
    int64_t end = client::now_ms() + client::request_timeout_ms;
    while ((p.revents & POLLHUP) == 0 && client::now_ms() < end) {
        sys::poll(&p, 1, client::request_timeout_ms);
    }
}

void move_listener_socket(int fd) noexcept {
    int moved = sys::fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (moved < 0) {
        return;
    }
    make_internal(moved);
    {
        table_lock l;
        for (int n = 0; n <= highest_number(); ++n) {
            object* o = at_number(n);
            if (o != nullptr && o->what == kind::listener && o->listener.kernel_fd == fd) {
                o->listener.kernel_fd = moved;
            }
        }
    }
    close_internal(fd);
}

}  // namespace vmsgr::preload
