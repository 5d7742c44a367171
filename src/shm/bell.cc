#include "shm/bell.hh"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <limits>
#include <string>

#include "base/rights.hh"
#include "base/sys.hh"
#include "shm/layout.hh"

namespace vmsgr::shm {

namespace {

constexpr size_t rights_max = 253;  // SCM_MAX_FD of the kernel
constexpr int shortages_max = 1000;  // well below a millisecond, as others may wait for who sends

int bytes_in(int fd) noexcept {
    int n = 0;
    return sys::call(SYS_ioctl, fd, FIONREAD, &n) == 0 ? n : 0;
}

}  // namespace

ssize_t receive_with_rights(int fd, std::span<iovec> into, rights_sink& rights, bool& some) noexcept {
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * rights_max)];
    msghdr m{};
    m.msg_iov = into.data();
    m.msg_iovlen = into.size();
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    const ssize_t r = sys::recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (r < 0 || m.msg_controllen == 0) {
        return r;
    }
    base::each_right(m, [&](int right) {
        some = true;
        rights.take(base::unique_fd(right));
    });
    return r;
}

// A token that is lost is a reader that sleeps for ever, so where the kernel has no memory for it we ask again for a
// while.
bool bell::send(int how) noexcept {
    for (int shortages = 0;;) {
        const ssize_t r = sys::send(_fd, &token_byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL | how);
        if (r == 1) {
            return true;
        }
        const bool shortage = errno == ENOBUFS || errno == ENOMEM;
        if (errno != EINTR && (!shortage || ++shortages > shortages_max)) {
            return false;
        }
        if (shortage) {
            ::sched_yield();
        }
    }
}

bool bell::send_urgent_token() noexcept { return send(MSG_OOB) || (errno == EOPNOTSUPP && send(0)); }

bool bell::writable() const noexcept {
    pollfd p{_fd, POLLOUT, 0};
    return sys::poll(&p, 1, 0) == 1 && (p.revents & POLLOUT) != 0 && (p.revents & (POLLERR | POLLHUP)) == 0;
}

ssize_t bell::receive(unsigned char* to, uint32_t n) noexcept {
    iovec iov{to, n};
    return receive_with_rights(_fd, {&iov, 1}, *_rights, _foreign);
}

bool bell::holds_rights() const noexcept {
    unsigned char buf[bell_tokens_max];
    iovec iov{buf, sizeof buf};
    msghdr m{};
    m.msg_iov = &iov;
    m.msg_iovlen = 1;
    // Without room for them the kernel only says that there are some; those in the queue stay.
    const ssize_t r = sys::recvmsg(_fd, &m, MSG_PEEK | MSG_DONTWAIT);
    int there = 0;  // the look ends before an urgent token, too
    return (r > 0 && (m.msg_flags & MSG_CTRUNC) != 0) || sys::call(SYS_ioctl, _fd, FIONREAD, &there) != 0 ||
           there > std::max<ssize_t>(r, 0);
}

uint32_t bell::take_tokens(uint32_t n) noexcept {
    // Said before that token is counted, and n was counted before this look.
    if (_other_flags != nullptr && (_other_flags->load(std::memory_order_acquire) & end_moved) != 0) {
        return 0;
    }
    unsigned char buf[bell_tokens_max];
    uint32_t taken = 0;
    while (taken < n) {  // a read ends before an urgent token
        const ssize_t r = _rights != nullptr ? receive(buf, n - taken) : sys::recv(_fd, buf, n - taken, MSG_DONTWAIT);
        if (r < 0 && errno == EINTR) {
            continue;
        }
        if (r <= 0) {
            break;
        }
        _foreign = _foreign || !std::all_of(buf, buf + r, [](unsigned char b) { return b == token_byte; });
        taken += uint32_t(r);
        // Of a stranger no more descriptors at once than one message has. And a read that finds nothing would take the
        // error that a reset has left for the program.
        if (_foreign || (taken < n && bytes_in(_fd) == 0)) {
            break;
        }
    }
    return taken;
}

uint32_t bell::unread() const noexcept {
    const int n = bytes_in(_fd);
    return n > int(_resident) ? uint32_t(n) - _resident : 0;
}

bell_look look_at_bell(int fd, bool wait, int& errnum) {
    unsigned char byte;
    ssize_t r = wait ? sys::sleeping.recv(fd, &byte, 1, MSG_PEEK) : sys::recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (r == 1) {
        return bell_look::token;
    }
    if (r == 0) {
        return bell_look::hangup;
    }
    errnum = errno;
    // A socketpair end shows ECONNRESET once when the other end was closed with tokens unread.
    return errnum == ECONNRESET ? bell_look::hangup : bell_look::nothing;
}

namespace {

// The kernel doubles it; an end is writable up to a quarter of that, and a token counts as 768 bytes.
constexpr int send_buffer_bytes = 6144;

}  // namespace

void tune_bell(int fd) noexcept {
    constexpr int on = 1;
    sys::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_buffer_bytes, sizeof send_buffer_bytes);
    sys::setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on);
}

void tune_plain(int fd, size_t bytes) noexcept {
    const int wanted = int(std::min<size_t>(bytes, std::numeric_limits<int>::max() / 2));
    if (sys::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &wanted, sizeof wanted) != 0) {
        sys::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &wanted, sizeof wanted);
    }
}

base::result<bell_pair> make_bell() {
    int fds[2];
    if (sys::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
        return std::unexpected(base::os_error("socketpair"));
    }
    bell_pair p{base::unique_fd(fds[0]), base::unique_fd(fds[1])};
    tune_bell(fds[0]);
    tune_bell(fds[1]);
    return p;
}

void prepare_bell(int program_end, uint64_t id) noexcept {
    bell(program_end).send_token();
    mark_bell(program_end, id);
}

void mark_bell(int fd, uint64_t id) noexcept {
    // The kernel keeps these 64 bits for any socket; a unix socket has no use for them (socket(7) knows the option for
    // TCP and UDP only).
    sys::setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &id, sizeof id);
}

uint64_t mark_of_bell(int fd) noexcept {
    int domain = 0;
    uint64_t key = 0;
    socklen_t len = sizeof domain;
    if (sys::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) != 0 || domain != AF_UNIX) {
        return 0;
    }
    len = sizeof key;
    bool carries = sys::getsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &key, &len) == 0 && len == sizeof key;
    return carries && key != ~uint64_t{0} ? key : 0;
}

base::result<bell_limits> measure_bell() {
    auto p = make_bell();
    if (!p) {
        return std::unexpected(p.error());
    }
    bell b(p->program.get());
    bell_limits limits;
    constexpr unsigned enough = 64;
    for (unsigned n = 1; n <= enough; ++n) {
        if (!b.send_token()) {
            limits.until_refused = n - 1;
            break;
        }
        if (limits.until_unwritable == 0 && !b.writable()) {
            limits.until_unwritable = n;
        }
    }
    return limits;
}

}  // namespace vmsgr::shm
