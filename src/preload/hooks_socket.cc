// Sockets: where they come from, where they go, who is at their ends.
#include <netinet/in.h>
#include <string.h>

#include <algorithm>

#include "base/names.hh"
#include "preload/connecting.hh"
#include "preload/hook.hh"
#include "preload/listening.hh"
#include "preload/runtime.hh"

using namespace vmsgr;
using namespace vmsgr::preload;

VMSGR_INNER_HOOK int socket_hook(int domain, int type, int protocol) {
    int fd = real.socket(domain, type, protocol);
    if (fd < 0 || table == nullptr || in_vfork_child() || (domain != AF_INET && domain != AF_INET6) ||
        (type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) != SOCK_STREAM || (protocol != 0 && protocol != IPPROTO_TCP)) {
        return fd;
    }
    int saved = errno;
    object* stale = nullptr;
    {
        table_lock l;
        if (object* o = new_object(kind::socket)) {
            stale = set_number(fd, o);
        }
    }
    if (stale != nullptr) {
        finish(stale);
    }
    errno = saved;
    return fd;
}
VMSGR_CALM_HOOK(int, socket, (int domain, int type, int protocol), (domain, type, protocol))

VMSGR_HOOK int bind(int fd, const sockaddr* sa, socklen_t len) {
    const int r = real.bind(fd, sa, len);
    if (r == 0 && known(fd)) {
        if (use o(fd, kind::socket); o) {
            o->bound = true;
        }
    }
    return r;
}

VMSGR_INNER_HOOK int connect_hook(int fd, const sockaddr* sa, socklen_t len) {
    return active.load(std::memory_order_relaxed) ? keep_errno([&] { return routed_connect(fd, sa, len); })
                                                  : real.connect(fd, sa, len);
}
VMSGR_CALM_HOOK(int, connect, (int fd, const sockaddr* sa, socklen_t len), (fd, sa, len))

VMSGR_INNER_HOOK int listen_hook(int fd, int backlog) {
    return active.load(std::memory_order_relaxed) ? keep_errno([&] { return routed_listen(fd, backlog); })
                                                  : real.listen(fd, backlog);
}
VMSGR_CALM_HOOK(int, listen, (int fd, int backlog), (fd, backlog))

VMSGR_INNER_HOOK int accept_hook(int fd, sockaddr* sa, socklen_t* len) {
    if (known(fd)) {
        use o(fd);
        if (o && o->what == kind::listener) {
            o.drop();
            return keep_errno([&] { return routed_accept(fd, sa, len, 0); });
        }
        if (o && o->what == kind::stream) {
            errno = EINVAL;
            return -1;
        }
    }
    return real.accept(fd, sa, len);
}
VMSGR_CALM_HOOK(int, accept, (int fd, sockaddr* sa, socklen_t* len), (fd, sa, len))

VMSGR_INNER_HOOK int accept4_hook(int fd, sockaddr* sa, socklen_t* len, int flags) {
    if (known(fd)) {
        use o(fd);
        if (o && o->what == kind::listener) {
            o.drop();
            return keep_errno([&] { return routed_accept(fd, sa, len, flags); });
        }
        if (o && o->what == kind::stream) {
            errno = EINVAL;
            return -1;
        }
    }
    return real.accept4(fd, sa, len, flags);
}
VMSGR_CALM_HOOK(int, accept4, (int fd, sockaddr* sa, socklen_t* len, int flags), (fd, sa, len, flags))

VMSGR_INNER_HOOK int shutdown_hook(int fd, int how) {
    if (known(fd)) {
        use o(fd);
        if (o && o->what == kind::stream) {
            bool pending = o->stream.current() == client::phase::connecting;
            return pending && recall(fd, o.get()) ? real.shutdown(fd, how) : o->stream.shutdown(fd, how);
        }
        if (o && o->what == kind::listener) {
            int r = real.shutdown(o->listener.kernel_fd, how);
            if (r == 0 && how != SHUT_WR) {
                shut_listener(fd, o.get());
            }
            return r;
        }
        if (o && o->what == kind::internal) {
            return bad_descriptor();
        }
    }
    return real.shutdown(fd, how);
}
VMSGR_CALM_HOOK(int, shutdown, (int fd, int how), (fd, how))

VMSGR_INNER_HOOK int getsockname_hook(int fd, sockaddr* sa, socklen_t* len) {
    if (known(fd)) {
        use o(fd);
        if (o && o->what == kind::stream) {
            o->stream.current();
            return base::give_name(o->stream.page().local, sa, len);
        }
        if (o && o->what == kind::listener) {
            return real.getsockname(o->listener.kernel_fd, sa, len);
        }
    }
    return real.getsockname(fd, sa, len);
}
VMSGR_CALM_HOOK(int, getsockname, (int fd, sockaddr* sa, socklen_t* len), (fd, sa, len))

VMSGR_INNER_HOOK int getpeername_hook(int fd, sockaddr* sa, socklen_t* len) {
    if (known(fd)) {
        use o(fd);
        if (o && o->what == kind::stream) {
            auto p = o->stream.current();
            if (!client::stands(p) || o->stream.closed_both_ways()) {
                errno = ENOTCONN;
                return -1;
            }
            return base::give_name(o->stream.page().peer, sa, len);
        }
        if (o && o->what == kind::listener) {
            errno = ENOTCONN;
            return -1;
        }
    }
    return real.getpeername(fd, sa, len);
}
VMSGR_CALM_HOOK(int, getpeername, (int fd, sockaddr* sa, socklen_t* len), (fd, sa, len))
