// Options. Those that say how a call waits lie on the doorbell itself; what the connection has shown lies with us;
// everything else is asked of the kernel's own socket, which the daemon lends for the time of the call.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>

#include <algorithm>

#include <linux/sockios.h>

#include "base/names.hh"
#include "base/sockets.hh"
#include "base/sys.hh"
#include "base/unique_fd.hh"
#include "preload/event_loop.hh"
#include "preload/hook.hh"
#include "preload/listening.hh"
#include "preload/runtime.hh"

using namespace vmsgr;
using namespace vmsgr::preload;

namespace {

int give_int(int value, void* to, socklen_t* len) noexcept {
    if (to == nullptr || len == nullptr) {
        errno = EFAULT;
        return -1;
    }
    if (int(*len) < 0) {
        errno = EINVAL;
        return -1;
    }
    *len = std::min<socklen_t>(*len, sizeof value);
    memcpy(to, &value, *len);
    return 0;
}

bool is_timeout(int level, int name) noexcept {
    return level == SOL_SOCKET && (name == SO_RCVTIMEO || name == SO_SNDTIMEO);
}

// The kernel's socket of a stream, or none when the connection has ended on the daemon's side.
base::unique_fd lend(object* o, int shown, bool linger_asked) noexcept {
    linger noted;
    socklen_t len = sizeof noted;
    const bool plain = linger_asked || o->stream.page().options.find(SOL_SOCKET, SO_LINGER, &noted, len);
    int fd = runtime().session.borrow(shown, o->stream.page().id, plain);
    if (fd >= 0) {
        o->stream.page().options.move_to(fd);
    }
    return base::unique_fd(fd >= 0 ? fd : -1);
}

// As the kernel gives it: as many bytes as there is room for, and no room for more than there are.
int peer_name_option(object* o, void* value, socklen_t* len) noexcept {
    sockaddr_storage name{};
    const socklen_t whole = base::to_sockaddr(o->stream.page().peer, name);
    if (*len > whole) {  // below 0 too
        errno = EINVAL;
        return -1;
    }
    memcpy(value, &name, *len);
    return 0;
}

// Of a connection that has no socket, or none any more: like another one's, in the state of this.
int option_without_socket(object* o, int level, int name, void* value, socklen_t* len) noexcept {
    const int r = o->stream.page().options.get(o->stream.page().family, level, name, value, len);
    if (r == 0 && level == IPPROTO_TCP && name == TCP_INFO && *len != 0) {
        *static_cast<uint8_t*>(value) = o->stream.tcp_state();
    }
    return r;
}

int stream_getsockopt(object* o, int fd, int level, int name, void* value, socklen_t* len) {
    if (level == SOL_SOCKET) {
        switch (name) {
        case SO_ERROR: return give_int(o->stream.take_error(fd), value, len);
        case SO_TYPE: return give_int(SOCK_STREAM, value, len);
        case SO_DOMAIN: return give_int(o->stream.page().family, value, len);
        case SO_PROTOCOL: return give_int(IPPROTO_TCP, value, len);
        case SO_ACCEPTCONN: return give_int(0, value, len);
        case SO_PEERNAME: return peer_name_option(o, value, len);
        case SO_RCVLOWAT: return give_int(int(std::max(o->stream.page().lowat.load(), 1u)), value, len);
        case SO_OOBINLINE: return give_int(int(o->stream.page().urgent_inline.load()), value, len);
        case SO_PEEK_OFF: return give_int(o->stream.page().peek_from.load(), value, len);
        case SO_RCVTIMEO:
        case SO_SNDTIMEO: return real.getsockopt(fd, level, name, value, len);
        default: break;
        }
    }
    if (o->stream.is_local() && level == SOL_SOCKET && name == SO_COOKIE) {
        return real.getsockopt(fd, level, name, value, len);  // the doorbell's is as constant and unique
    }
    if (o->stream.is_local()) {
        return option_without_socket(o, level, name, value, len);
    }
    int saved = errno;
    base::unique_fd socket = lend(o, fd, level == SOL_SOCKET && name == SO_LINGER);
    errno = saved;
    if (!socket) {  // it has ended, or this process may not attach (it has given up its rights)
        return option_without_socket(o, level, name, value, len);
    }
    return real.getsockopt(socket.get(), level, name, value, len);
}

// Was set: what a sender gets rid of before it has to wait follows it.
int obey(object* o, int fd, int result, int socket, int level, int name, const void* value) noexcept {
    if (result == 0 && client::sizes_buffers(level, name)) {
        const auto& page = o->stream.page();
        o->stream.bound_buffers(socket >= 0 ? base::buffers_asked_of(socket) : page.options.asked_buffers(page.family));
    }
    if (result == 0 && o->stream.is_local() && level == IPPROTO_TCP && (name == TCP_CORK || name == TCP_NODELAY)) {
        int on = 0;
        memcpy(&on, value, sizeof on);  // a success: there was an int
        o->stream.cork(fd, name == TCP_CORK, on != 0);
    }
    return result;
}

int stream_setsockopt(object* o, int fd, int level, int name, const void* value, socklen_t len) {
    if (is_timeout(level, name)) {
        return real.setsockopt(fd, level, name, value, len);
    }
    if (level == IPPROTO_TCP && name == TCP_ULP) {
        // TLS in the kernel would encrypt what the daemon sends: the program does it itself, as without the module.
        errno = ENOENT;
        return -1;
    }
    if (level == SOL_SOCKET && name == SO_PEEK_OFF && value != nullptr && len >= sizeof(int)) {
        int from = 0;
        memcpy(&from, value, sizeof from);
        o->stream.page().peek_from.store(std::max(from, -1));
        return o->stream.is_plain() ? real.setsockopt(fd, level, name, value, len) : 0;
    }
    if (level == SOL_SOCKET && name == SO_OOBINLINE && value != nullptr && len >= sizeof(int)) {
        int on = 0;
        memcpy(&on, value, sizeof on);
        o->stream.page().urgent_inline.store(on != 0 ? 1 : 0);
        return o->stream.is_plain() && o->stream.is_local() ? real.setsockopt(fd, level, name, value, len) : 0;
    }
    if (level == IPPROTO_TCP && name == TCP_INQ && value != nullptr && len >= sizeof(int)) {
        int on = 0;
        memcpy(&on, value, sizeof on);
        o->stream.page().tells_inq.store(on == 1 ? 1 : 0);
    }
    if (level == SOL_SOCKET && name == SO_RCVLOWAT) {
        // Not on the daemon's socket, whose data it would hold back; a fresh one says what the kernel makes of it.
        client::option_list probe;
        const int r = probe.set(o->stream.page().family, level, name, value, len);
        uint32_t low = 0;
        socklen_t size = sizeof low;
        if (r == 0 && probe.get(o->stream.page().family, level, name, &low, &size) == 0) {
            o->stream.set_low_mark(fd, low);
        }
        return r;
    }
    int saved = errno;
    base::unique_fd socket = o->stream.is_local() ? base::unique_fd()
                                                  : lend(o, fd, level == SOL_SOCKET && name == SO_LINGER);
    errno = saved;
    const int r = socket ? real.setsockopt(socket.get(), level, name, value, len)
                         : o->stream.page().options.set(o->stream.page().family, level, name, value, len);
    return obey(o, fd, r, socket.get(), level, name, value);
}

// A local connection will have no kernel socket that could be asked.
int note_option(object* o, int result, int level, int name, const void* value, socklen_t len) noexcept {
    if (result == 0) {
        o->options.note(level, name, value, len);
    }
    return result;
}

int stream_ioctl(object* o, int fd, unsigned long request, void* arg, bool& ours) {
    ours = true;
    if (arg == nullptr &&
        (request == FIONREAD || request == SIOCOUTQ || request == SIOCOUTQNSD || request == SIOCATMARK)) {
        errno = EFAULT;
        return -1;
    }
    if (request == FIONBIO && arg != nullptr) {
        o->stream.page().nonblocking.store(*static_cast<int*>(arg) != 0, std::memory_order_relaxed);
    }
    if (request == FIOASYNC) {
        expect_signals(*o, fd);
    }
    // Of the host's interfaces: any socket of the family answers.
    const bool of_host = request >= SIOCADDRT && request <= SIOCDEVPRIVATE;
    if (of_host || request == SIOCGSTAMP || request == SIOCGSTAMPNS) {
        const base::unique_fd any(sys::socket(o->stream.page().family, SOCK_STREAM | SOCK_CLOEXEC, 0));
        return any ? real.ioctl(any.get(), request, arg) : -1;
    }
    switch (request) {
    case FIONREAD: *static_cast<int*>(arg) = int(o->stream.bytes_to_read(fd)); return 0;
    case SIOCOUTQNSD:  // what left the program is on its way
        *static_cast<int*>(arg) = o->stream.is_local() ? int(o->stream.unsent_bytes()) : 0;
        return 0;
    case SIOCOUTQ: *static_cast<int*>(arg) = int(o->stream.unsent_bytes()); return 0;
    case SIOCATMARK:
        if (o->stream.is_plain()) {
            break;
        }
        *static_cast<int*>(arg) = o->stream.is_at_mark() ? 1 : 0;
        return 0;
    default: break;
    }
    ours = false;
    return 0;
}

}  // namespace

VMSGR_INNER_HOOK int getsockopt_hook(int fd, int level, int name, void* value, socklen_t* len) {
    if (known(fd)) {
        use o(fd);
        if (o && o->what == kind::stream) {
            return stream_getsockopt(o.get(), fd, level, name, value, len);
        }
        if (o && o->what == kind::listener) {
            return real.getsockopt(o->listener.kernel_fd, level, name, value, len);
        }
    }
    return real.getsockopt(fd, level, name, value, len);
}
VMSGR_CALM_HOOK(int, getsockopt, (int fd, int level, int name, void* value, socklen_t* len),
                (fd, level, name, value, len))

VMSGR_INNER_HOOK int setsockopt_hook(int fd, int level, int name, const void* value, socklen_t len) {
    if (known(fd)) {
        use o(fd);
        if (o && o->what == kind::stream) {
            return stream_setsockopt(o.get(), fd, level, name, value, len);
        }
        if (o && o->what == kind::listener) {
            if (is_timeout(level, name)) {
                o->listener.timeouts = true;
                real.setsockopt(fd, level, name, value, len);
            }
            const int r = note_option(o.get(), real.setsockopt(o->listener.kernel_fd, level, name, value, len), level,
                                      name, value, len);
            if (r == 0 && level == IPPROTO_TCP && name == TCP_DEFER_ACCEPT && o->listener.by_daemon.load() &&
                defers_accept(o->listener.kernel_fd)) {
                runtime().session.unlist(fd);
            }
            return r;
        }
        if (o && o->what == kind::socket) {
            return note_option(o.get(), real.setsockopt(fd, level, name, value, len), level, name, value, len);
        }
    }
    return real.setsockopt(fd, level, name, value, len);
}
VMSGR_CALM_HOOK(int, setsockopt, (int fd, int level, int name, const void* value, socklen_t len),
                (fd, level, name, value, len))

VMSGR_HOOK int ioctl(int fd, unsigned long request, ...) {
    va_list ap;
    va_start(ap, request);
    void* arg = va_arg(ap, void*);
    va_end(ap);
    if (known(fd)) {
        use o(fd);
        if (o && o->what == kind::stream) {
            bool ours = false;
            int r = stream_ioctl(o.get(), fd, request, arg, ours);
            if (ours) {
                return r;
            }
        }
        // How the number waits, and whether it is inherited, is the door's matter, the rest the listening socket's.
        const bool of_number = request == FIONBIO || request == FIOASYNC || request == FIOCLEX || request == FIONCLEX;
        if (o && o->what == kind::listener && !of_number) {
            return real.ioctl(o->listener.kernel_fd, request, arg);
        }
    }
    return real.ioctl(fd, request, arg);
}

// libc's own asks the kernel by itself.
VMSGR_HOOK int sockatmark(int fd) {
    int at_mark = 0;
    return ioctl(fd, SIOCATMARK, &at_mark) == 0 ? at_mark : -1;
}
