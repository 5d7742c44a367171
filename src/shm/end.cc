#include "shm/end.hh"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>

#include "base/sys.hh"

namespace vmsgr::shm {

// Whatever poll shows; 0: nothing, and waiting::errnum says why.
short end::poll_out(waiting& w, const base::deadline& until) {
    pollfd p{doorbell.fd(), POLLOUT, 0};
    const int r = sys::sleeping.poll(&p, 1, until.left_ms());
    const bool closed = r > 0 && (p.revents & POLLNVAL) != 0;
    w.errnum = closed ? EBADF : r < 0 ? errno : ETIMEDOUT;
    return r > 0 && !closed ? p.revents : short(0);
}

bool end::holds_foreign_bytes() const noexcept {
    unsigned char bytes[bell_tokens_max];
    const ssize_t n = sys::recv(doorbell.fd(), bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
    return n > 0 && (!in.may_have_sent(uint32_t(n), doorbell.resident()) ||
                     !std::all_of(bytes, bytes + n, [](unsigned char b) { return b == token_byte; }));
}

woken end::sleep_readable(waiting& w, const std::optional<base::deadline>& until) {
    const int left_ms = until ? until->left_ms() : 0;
    if (left_ms != 0) {
        pollfd p{doorbell.fd(), POLLIN, 0};
        const int r = sys::sleeping.poll(&p, 1, left_ms);
        if (r <= 0) {
            w.errnum = r < 0 ? errno : ETIMEDOUT;
            return woken::failed;
        }
    }
    switch (look_at_bell(doorbell.fd(), !until, w.errnum)) {
    case bell_look::hangup: w.hung_up = true; return woken::look;
    case bell_look::nothing:
        if (left_ms == 0) {
            w.errnum = until && w.errnum == EAGAIN ? ETIMEDOUT : w.errnum;
            return woken::failed;
        }
        break;  // another reader was faster
    case bell_look::token: break;
    }
    ++w.spurious;
    return woken::look;
}

}  // namespace vmsgr::shm
