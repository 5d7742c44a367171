// Data: read, write and their kin.
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#include <algorithm>
#include <optional>

#include "base/sys.hh"
#include "preload/hook.hh"
#include "preload/inherit.hh"

using namespace vmsgr::preload;

namespace {

constexpr size_t iov_max = 1024;

// The iovec check that the kernel makes before it looks at the socket.
bool bad_iov(const iovec* iov, ssize_t count) noexcept {
    return count < 0 || size_t(count) > iov_max || (count != 0 && !iov);
}

ssize_t invalid(int err) noexcept {
    errno = err;
    return -1;
}

// Control messages as TCP takes them: those of SOL_SOCKET are known or refused, others ignored.
bool control_fits(const msghdr* m) noexcept {
    if (m->msg_control == nullptr || m->msg_controllen == 0) {
        return true;
    }
    auto* message = const_cast<msghdr*>(m);
    auto* begin = static_cast<const char*>(m->msg_control);
    for (cmsghdr* c = CMSG_FIRSTHDR(message); c != nullptr; c = CMSG_NXTHDR(message, c)) {
        size_t left = size_t(begin + m->msg_controllen - reinterpret_cast<const char*>(c));
        if (c->cmsg_len < sizeof(cmsghdr) || c->cmsg_len > left) {
            return false;
        }
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type != SCM_RIGHTS && c->cmsg_type != SCM_CREDENTIALS &&
            c->cmsg_type != SO_MARK && c->cmsg_type != SO_TIMESTAMPING_OLD && c->cmsg_type != SO_PRIORITY) {
            return false;
        }
    }
    return true;
}

ssize_t stream_sendmsg(object* o, int fd, const msghdr* m, int flags) {
    if (m->msg_iovlen > iov_max) {
        return invalid(EMSGSIZE);
    }
    if (!control_fits(m)) {
        return invalid(EINVAL);
    }
    return keep_errno([&] { return o->stream.send(fd, m->msg_iov, m->msg_iovlen, flags); });
}

// TCP_INQ: how many bytes are left, as a control message.
void tell_inq(object* o, int fd, msghdr* m, size_t room) noexcept {
    if (room < CMSG_LEN(sizeof(int))) {
        m->msg_flags |= room != 0 ? MSG_CTRUNC : 0;
        return;
    }
    auto* c = static_cast<cmsghdr*>(m->msg_control);
    c->cmsg_level = IPPROTO_TCP;
    c->cmsg_type = TCP_CM_INQ;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    const int left = int(o->stream.bytes_to_read(fd));
    memcpy(CMSG_DATA(c), &left, sizeof left);
    m->msg_controllen = std::min(room, CMSG_SPACE(sizeof(int)));
}

ssize_t stream_recvmsg(object* o, int fd, msghdr* m, int flags) {
    if (m->msg_iovlen > iov_max) {
        return invalid(EMSGSIZE);
    }
    ssize_t r = keep_errno([&] { return o->stream.receive(fd, m->msg_iov, m->msg_iovlen, flags); });
    if (r >= 0) {
        const size_t room = m->msg_control != nullptr ? m->msg_controllen : 0;
        m->msg_namelen = 0;
        m->msg_controllen = 0;
        m->msg_flags = flags & (MSG_CMSG_CLOEXEC | MSG_OOB);
        if (o->stream.page().tells_inq.load(std::memory_order_relaxed) != 0) {
            tell_inq(o, fd, m, room);
        }
    }
    return r;
}

ssize_t stream_read(object* o, int fd, void* p, size_t n, int flags) {
    iovec iov{p, std::min<size_t>(n, SSIZE_MAX)};
    return keep_errno([&] { return o->stream.receive(fd, &iov, 1, flags); });
}

ssize_t stream_write(object* o, int fd, const void* p, size_t n, int flags) {
    iovec iov{const_cast<void*>(p), std::min<size_t>(n, SSIZE_MAX)};
    return keep_errno([&] { return o->stream.send(fd, &iov, 1, flags); });
}

// Without an offset the file's own position moves, as sendfile moves it.
ssize_t stream_sendfile(object* o, int fd, int file, off_t* offset, size_t n) {
    int64_t at = offset != nullptr ? *offset : ::lseek(file, 0, SEEK_CUR);
    if (at < 0) {
        return invalid(errno == ESPIPE || offset != nullptr ? EINVAL : errno);
    }
    ssize_t r = o->stream.send_file(fd, file, at, n);
    if (offset != nullptr) {
        *offset = at;
    } else if (r > 0) {
        ::lseek(file, at, SEEK_SET);
    }
    return r;
}

// SPLICE_F_NONBLOCK is for the pipe, which is waited for here, with no lock held; the stream waits as its
// descriptor does.
ssize_t stream_splice(object* o, int fd, int pipe, bool to_stream, size_t n, unsigned flags) {
    for (;;) {
        ssize_t r = to_stream ? o->stream.send_from_pipe(fd, pipe, n) : o->stream.receive_to_pipe(fd, pipe, n);
        if (r >= 0 || errno != EAGAIN) {
            return r;
        }
        pollfd p{pipe, short(to_stream ? POLLIN : POLLOUT), 0};
        if (vmsgr::sys::poll(&p, 1, 0) != 0) {
            return invalid(EAGAIN);  // the pipe is ready: it was the stream that would wait
        }
        if ((flags & SPLICE_F_NONBLOCK) != 0) {
            return invalid(EAGAIN);
        }
        if (vmsgr::sys::poll(&p, 1, -1) < 0) {
            return -1;
        }
    }
}

// A message between other sockets may carry descriptors of ours.
bool carries_control(const msghdr* m) noexcept {
    return table != nullptr && m->msg_controllen != 0 && m->msg_control != nullptr;
}
void follow_received(const msghdr* m) noexcept {
    if (carries_control(m)) {
        int saved = errno;
        take_received(m);
        errno = saved;
    }
}

// One whose bytes are ours: in plain mode the kernel has them, and the call is its own (a seccomp filter may allow
// read() and write() alone).
bool is_stream(const use& o) noexcept { return o && o->what == kind::stream && !o->stream.goes_past(); }

// Where a call goes that is the kernel's after all: a listener's number carries messages of ours, so its listening
// socket answers; the library's own descriptors are not there for the program.
int kernel_number(const use& o, int fd) noexcept {
    if (o && o->what == kind::listener) {
        return o->listener.kernel_fd;
    }
    return o && o->what == kind::internal ? -1 : fd;
}

}  // namespace

VMSGR_INNER_HOOK ssize_t read_hook(int fd, void* p, size_t n) {
    if (known(fd)) {
        use o(fd);
        if (is_stream(o)) {
            return n == 0 ? 0 : stream_read(o.get(), fd, p, n, 0);
        }
        return real.read(kernel_number(o, fd), p, n);
    }
    return real.read(fd, p, n);
}
VMSGR_CALM_HOOK(ssize_t, read, (int fd, void* p, size_t n), (fd, p, n))

VMSGR_INNER_HOOK ssize_t __read_chk_hook(int fd, void* p, size_t n, size_t room) {
    if (n > room) {
        __builtin_trap();
    }
    return read(fd, p, n);
}
VMSGR_CALM_HOOK(ssize_t, __read_chk, (int fd, void* p, size_t n, size_t room), (fd, p, n, room))

VMSGR_INNER_HOOK ssize_t write_hook(int fd, const void* p, size_t n) {
    if (known(fd)) {
        use o(fd);
        if (is_stream(o)) {
            return stream_write(o.get(), fd, p, n, 0);
        }
        return real.write(kernel_number(o, fd), p, n);
    }
    return real.write(fd, p, n);
}
VMSGR_CALM_HOOK(ssize_t, write, (int fd, const void* p, size_t n), (fd, p, n))

namespace {

// preadv2() and pwritev2() at "the file's own position" are what a socket takes, as a message with these flags;
// anything else the kernel refuses, and in the same words for the doorbell as for TCP.
std::optional<int> as_message_flags(off_t offset, int flags) noexcept {
    constexpr int taken = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT;
    if (offset != -1 || (flags & ~taken) != 0) {
        return std::nullopt;
    }
    return (flags & RWF_NOWAIT) != 0 ? MSG_DONTWAIT : 0;
}

// Move: stream::receive or stream::send. kernel(number) is libc's call, also where there are no flags for ours.
template <auto Move, typename Kernel>
ssize_t move_pieces(int fd, const iovec* iov, int count, std::optional<int> flags, Kernel&& kernel) {
    if (!known(fd)) {
        return kernel(fd);
    }
    use o(fd);
    if (!is_stream(o) || !flags) {
        return kernel(kernel_number(o, fd));
    }
    return bad_iov(iov, count) ? invalid(EINVAL)
                               : keep_errno([&] { return (o->stream.*Move)(fd, iov, size_t(count), *flags); });
}

}  // namespace

VMSGR_INNER_HOOK ssize_t readv_hook(int fd, const iovec* iov, int count) {
    return move_pieces<&vmsgr::client::stream::receive>(fd, iov, count, 0,
                                                        [&](int number) { return real.readv(number, iov, count); });
}
VMSGR_CALM_HOOK(ssize_t, readv, (int fd, const iovec* iov, int count), (fd, iov, count))

VMSGR_INNER_HOOK ssize_t writev_hook(int fd, const iovec* iov, int count) {
    return move_pieces<&vmsgr::client::stream::send>(fd, iov, count, 0,
                                                     [&](int number) { return real.writev(number, iov, count); });
}
VMSGR_CALM_HOOK(ssize_t, writev, (int fd, const iovec* iov, int count), (fd, iov, count))

VMSGR_INNER_HOOK ssize_t preadv2_hook(int fd, const iovec* iov, int count, off_t offset, int flags) {
    return move_pieces<&vmsgr::client::stream::receive>(
        fd, iov, count, as_message_flags(offset, flags),
        [&](int number) { return real.preadv2(number, iov, count, offset, flags); });
}
VMSGR_CALM_HOOK(ssize_t, preadv2, (int fd, const iovec* iov, int count, off_t offset, int flags),
                (fd, iov, count, offset, flags))
VMSGR_HOOK ssize_t preadv64v2(int fd, const iovec* iov, int count, off64_t offset, int flags) {
    return preadv2(fd, iov, count, offset, flags);
}

VMSGR_INNER_HOOK ssize_t pwritev2_hook(int fd, const iovec* iov, int count, off_t offset, int flags) {
    return move_pieces<&vmsgr::client::stream::send>(fd, iov, count, as_message_flags(offset, flags), [&](int number) {
        return real.pwritev2(number, iov, count, offset, flags);
    });
}
VMSGR_CALM_HOOK(ssize_t, pwritev2, (int fd, const iovec* iov, int count, off_t offset, int flags),
                (fd, iov, count, offset, flags))
VMSGR_HOOK ssize_t pwritev64v2(int fd, const iovec* iov, int count, off64_t offset, int flags) {
    return pwritev2(fd, iov, count, offset, flags);
}

VMSGR_INNER_HOOK ssize_t send_hook(int fd, const void* p, size_t n, int flags) {
    if (known(fd)) {
        use o(fd);
        if (is_stream(o)) {
            return stream_write(o.get(), fd, p, n, flags);
        }
        return real.send(kernel_number(o, fd), p, n, flags);
    }
    return real.send(fd, p, n, flags);
}
VMSGR_CALM_HOOK(ssize_t, send, (int fd, const void* p, size_t n, int flags), (fd, p, n, flags))

VMSGR_INNER_HOOK ssize_t recv_hook(int fd, void* p, size_t n, int flags) {
    if (known(fd)) {
        use o(fd);
        if (is_stream(o)) {
            return stream_read(o.get(), fd, p, n, flags);
        }
        return real.recv(kernel_number(o, fd), p, n, flags);
    }
    return real.recv(fd, p, n, flags);
}
VMSGR_CALM_HOOK(ssize_t, recv, (int fd, void* p, size_t n, int flags), (fd, p, n, flags))

VMSGR_INNER_HOOK ssize_t __recv_chk_hook(int fd, void* p, size_t n, size_t room, int flags) {
    if (n > room) {
        __builtin_trap();
    }
    return recv(fd, p, n, flags);
}
VMSGR_CALM_HOOK(ssize_t, __recv_chk, (int fd, void* p, size_t n, size_t room, int flags), (fd, p, n, room, flags))

VMSGR_INNER_HOOK ssize_t sendto_hook(int fd, const void* p, size_t n, int flags, const sockaddr* to, socklen_t len) {
    if (known(fd)) {
        use o(fd);
        if (is_stream(o)) {
            if (to != nullptr && len > sizeof(sockaddr_storage)) {
                return invalid(EINVAL);
            }
            return stream_write(o.get(), fd, p, n, flags);
        }
        const bool plain = o && o->what == kind::stream;  // connected: TCP ignores the address, AF_UNIX would not
        return real.sendto(kernel_number(o, fd), p, n, flags, plain ? nullptr : to, plain ? 0 : len);
    }
    return real.sendto(fd, p, n, flags, to, len);
}
VMSGR_CALM_HOOK(ssize_t, sendto, (int fd, const void* p, size_t n, int flags, const sockaddr* to, socklen_t len),
                (fd, p, n, flags, to, len))

VMSGR_INNER_HOOK ssize_t recvfrom_hook(int fd, void* p, size_t n, int flags, sockaddr* from, socklen_t* len) {
    if (known(fd)) {
        use o(fd);
        if (is_stream(o)) {
            ssize_t r = stream_read(o.get(), fd, p, n, flags);
            if (r >= 0 && from != nullptr && len != nullptr) {
                *len = 0;
            }
            return r;
        }
        const ssize_t r = real.recvfrom(kernel_number(o, fd), p, n, flags, from, len);
        if (r >= 0 && o && o->what == kind::stream && from != nullptr && len != nullptr) {
            *len = 0;
        }
        return r;
    }
    return real.recvfrom(fd, p, n, flags, from, len);
}
VMSGR_CALM_HOOK(ssize_t, recvfrom, (int fd, void* p, size_t n, int flags, sockaddr* from, socklen_t* len),
                (fd, p, n, flags, from, len))

VMSGR_INNER_HOOK ssize_t __recvfrom_chk_hook(int fd, void* p, size_t n, size_t room, int flags, sockaddr* from,
                                             socklen_t* len) {
    if (n > room) {
        __builtin_trap();
    }
    return recvfrom(fd, p, n, flags, from, len);
}
VMSGR_CALM_HOOK(ssize_t, __recvfrom_chk,
                (int fd, void* p, size_t n, size_t room, int flags, sockaddr* from, socklen_t* len),
                (fd, p, n, room, flags, from, len))

VMSGR_INNER_HOOK ssize_t sendmsg_hook(int fd, const msghdr* m, int flags) {
    if (known(fd)) {
        use o(fd);
        if (o && o->what == kind::stream) {
            return stream_sendmsg(o.get(), fd, m, flags);
        }
        return real.sendmsg(kernel_number(o, fd), m, flags);
    }
    if (carries_control(m)) {
        note_sent(fd, m);
    }
    return real.sendmsg(fd, m, flags);
}
VMSGR_CALM_HOOK(ssize_t, sendmsg, (int fd, const msghdr* m, int flags), (fd, m, flags))

VMSGR_INNER_HOOK ssize_t recvmsg_hook(int fd, msghdr* m, int flags) {
    if (known(fd)) {
        use o(fd);
        if (o && o->what == kind::stream) {
            return stream_recvmsg(o.get(), fd, m, flags);
        }
        return real.recvmsg(kernel_number(o, fd), m, flags);
    }
    ssize_t r = real.recvmsg(fd, m, flags);
    if (r >= 0) {
        follow_received(m);
    }
    return r;
}
VMSGR_CALM_HOOK(ssize_t, recvmsg, (int fd, msghdr* m, int flags), (fd, m, flags))

VMSGR_INNER_HOOK int sendmmsg_hook(int fd, mmsghdr* messages, unsigned count, int flags) {
    if (known(fd)) {
        use o(fd);
        if (o && o->what == kind::stream) {
            unsigned done = 0;
            for (; done < std::min<unsigned>(count, iov_max); ++done) {
                ssize_t r = stream_sendmsg(o.get(), fd, &messages[done].msg_hdr, flags);
                if (r < 0) {
                    return done != 0 ? int(done) : -1;
                }
                messages[done].msg_len = unsigned(r);
            }
            return int(done);
        }
        return real.sendmmsg(kernel_number(o, fd), messages, count, flags);
    }
    for (unsigned i = 0; table != nullptr && i < std::min<unsigned>(count, iov_max); ++i) {
        if (carries_control(&messages[i].msg_hdr)) {
            note_sent(fd, &messages[i].msg_hdr);
        }
    }
    return real.sendmmsg(fd, messages, count, flags);
}
VMSGR_CALM_HOOK(int, sendmmsg, (int fd, mmsghdr* messages, unsigned count, int flags), (fd, messages, count, flags))

VMSGR_INNER_HOOK int recvmmsg_hook(int fd, mmsghdr* messages, unsigned count, int flags, timespec* timeout) {
    if (known(fd)) {
        use o(fd);
        if (o && o->what == kind::stream) {
            unsigned done = 0;
            for (; done < std::min<unsigned>(count, iov_max); ++done) {
                ssize_t r = stream_recvmsg(o.get(), fd, &messages[done].msg_hdr, flags & ~MSG_WAITFORONE);
                if (r < 0) {
                    return done != 0 ? int(done) : -1;
                }
                messages[done].msg_len = unsigned(r);
                if ((flags & MSG_WAITFORONE) != 0) {
                    flags |= MSG_DONTWAIT;
                }
            }
            return int(done);
        }
        return real.recvmmsg(kernel_number(o, fd), messages, count, flags, timeout);
    }
    const int n = real.recvmmsg(fd, messages, count, flags, timeout);
    for (int i = 0; i < n; ++i) {
        follow_received(&messages[i].msg_hdr);
    }
    return n;
}
VMSGR_CALM_HOOK(int, recvmmsg, (int fd, mmsghdr* messages, unsigned count, int flags, timespec* timeout),
                (fd, messages, count, flags, timeout))

VMSGR_INNER_HOOK ssize_t sendfile_hook(int out, int in, off_t* offset, size_t n) {
    if (known(out)) {
        use o(out);
        if (is_stream(o)) {
            return stream_sendfile(o.get(), out, in, offset, n);
        }
        return real.sendfile(kernel_number(o, out), in, offset, n);
    }
    return real.sendfile(out, in, offset, n);
}
VMSGR_CALM_HOOK(ssize_t, sendfile, (int out, int in, off_t* offset, size_t n), (out, in, offset, n))

VMSGR_HOOK ssize_t sendfile64(int out, int in, off64_t* offset, size_t n) { return sendfile(out, in, offset, n); }

VMSGR_INNER_HOOK ssize_t splice_hook(int in, loff_t* in_offset, int out, loff_t* out_offset, size_t n, unsigned flags) {
    if (known(in) || known(out)) {
        use from(in), to(out);
        if (is_stream(from) || is_stream(to)) {
            if ((is_stream(from) && in_offset != nullptr) || (is_stream(to) && out_offset != nullptr)) {
                return invalid(EINVAL);
            }
            return is_stream(to) ? stream_splice(to.get(), out, in, true, n, flags)
                                 : stream_splice(from.get(), in, out, false, n, flags);
        }
        in = kernel_number(from, in);
        out = kernel_number(to, out);
    }
    return real.splice(in, in_offset, out, out_offset, n, flags);
}
VMSGR_CALM_HOOK(ssize_t, splice, (int in, loff_t* in_offset, int out, loff_t* out_offset, size_t n, unsigned flags),
                (in, in_offset, out, out_offset, n, flags))
