#include "proto/control_client.hh"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>

#include "base/sys.hh"

namespace vmsgr::proto {

namespace {

using step = attach_failure::step;

std::unexpected<attach_failure> failed(step at, int errnum) noexcept {
    return std::unexpected(attach_failure{.at = at, .errnum = errnum});
}

// 0 or an errno; EAGAIN: no room in the backlog within that time. From then on the socket does not block.
int connect_within(int sock, const sockaddr_un& un, uint32_t len, int limit_ms) noexcept {
    const int patience_ms = std::max(limit_ms, 1);  // 0 would be for ever
    const timeval patience{patience_ms / 1000, patience_ms % 1000 * 1000};
    sys::setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    const base::deadline until(patience_ms);
    while (sys::connect(sock, &un, len) != 0) {
        if (errno != EINTR || until.left_ms() == 0) {
            return errno;
        }
    }
    return sys::fcntl(sock, F_SETFL, O_NONBLOCK) == 0 ? 0 : errno;
}

// 0 or an errno; ECONNRESET: it hung up.
int receive_within(int sock, void* msg, size_t bytes, const base::deadline& until, received& out) noexcept {
    for (;;) {
        const int e = receive_with_fds(sock, msg, bytes, MSG_DONTWAIT, out);
        if (e == 0) {
            return out.bytes == 0 ? ECONNRESET : 0;
        }
        if (e != EAGAIN && e != EINTR) {
            return e;
        }
        const int left_ms = until.left_ms();
        if (left_ms == 0) {
            return ETIMEDOUT;
        }
        pollfd p{sock, POLLIN, 0};
        sys::poll(&p, 1, left_ms);
    }
}

// Another version may have another size behind its number, so that is looked at first.
std::expected<attached, attach_failure> judge(attached a) noexcept {
    constexpr size_t head = offsetof(welcome_msg, version) + sizeof(uint16_t);
    auto& w = a.welcome;
    attach_failure f{.at = step::nonsense, .errnum = EPROTO};
    if (a.with.bytes < head || w.magic != control_magic || w.what != kind::welcome) {
        return std::unexpected(f);
    }
    if (w.version != control_version) {
        f.at = step::version;
        f.version = w.version;
        return std::unexpected(f);
    }
    if (a.with.bytes != sizeof w) {
        f.welcome_bytes = a.with.bytes;
        return std::unexpected(f);
    }
    if (w.status != 0) {
        f.at = step::refused;
        f.errnum = w.status > 0 ? w.status : EPROTO;
        copy_text(f.text, std::string_view(w.text, strnlen(w.text, sizeof w.text)));
        return std::unexpected(f);
    }
    return a;
}

}  // namespace

std::expected<attached, attach_failure> attach(const char* path, const attaching& how) noexcept {
    sockaddr_un un;
    uint32_t len = 0;
    if (int e = unix_address(path, &un, len); e != 0) {
        return failed(step::reach, e);
    }
    attached a;
    a.socket.reset(sys::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!a.socket) {
        return failed(step::local, errno);
    }
    const int sock = a.socket.get();
    if (int e = connect_within(sock, un, len, how.backlog_ms); e != 0) {
        return failed(step::reach, e);
    }
    hello_msg hello;
    hello.session = how.session;
    hello.features = how.features;
    copy_text(hello.program, how.program);
    int e = send_with_fds(sock, &hello, sizeof hello, {}, MSG_DONTWAIT);
    if (e == 0) {
        e = receive_within(sock, &a.welcome, sizeof a.welcome, base::deadline(how.answer_ms), a.with);
    }
    if (e != 0) {
        return failed(step::answer, e == EAGAIN ? ETIMEDOUT : e);
    }
    return judge(std::move(a));
}

int send_request(int sock, const request_msg& m, std::span<const int> fds) noexcept {
    int e;
    do {
        e = send_with_fds(sock, &m, sizeof m, fds, MSG_DONTWAIT);
    } while (e == EINTR);
    return e;
}

int receive_piece(int sock, uint32_t serial, const base::deadline& until, document_piece& piece) noexcept {
    const reply_msg& head = piece.head;
    for (;;) {
        received got;
        if (int e = receive_within(sock, &piece, sizeof piece, until, got); e != 0) {
            return e;
        }
        const auto behind = int32_t(head.serial - serial);
        if (got.bytes < sizeof head || head.magic != control_magic || head.what != kind::reply || behind > 0) {
            return EPROTO;
        }
        if (behind == 0) {
            return head.bytes == got.bytes - sizeof head ? 0 : EPROTO;
        }
    }
}

int receive_reply(int sock, uint32_t serial, const base::deadline& until, reply_msg& reply, received& got) noexcept {
    for (;;) {
        if (int e = receive_within(sock, &reply, sizeof reply, until, got); e != 0) {
            return e;
        }
        const auto behind = int32_t(reply.serial - serial);
        if (got.bytes != sizeof reply || reply.magic != control_magic || reply.what != kind::reply || behind > 0) {
            return EPROTO;
        }
        if (behind == 0) {
            return 0;
        }
    }
}

}  // namespace vmsgr::proto
