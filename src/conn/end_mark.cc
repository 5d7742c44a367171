#include "conn/end_mark.hh"

#include "base/sockets.hh"

namespace vmsgr::conn {

namespace {

bool is_reset(const linger& l) noexcept { return l.l_onoff != 0 && l.l_linger == 0; }

}  // namespace

end_mark::end_mark(const linger& own) noexcept {
    if (!is_reset(own)) {
        _own = own;
    }
}

void end_mark::set(int socket) noexcept {
    if (_own) {
        return;
    }
    if (const auto before = base::linger_no_time(socket)) {
        *this = end_mark(*before);
    }
}

// Where the socket has another value by now, a program has set it on a socket that was lent to it.
void end_mark::lift(int socket) noexcept {
    if (_own && base::lingers_zero(socket)) {
        ::setsockopt(socket, SOL_SOCKET, SO_LINGER, &*_own, sizeof *_own);
    }
    _own.reset();
}

bool end_mark::program_resets(int socket) const noexcept { return !_own && base::lingers_zero(socket); }

}  // namespace vmsgr::conn
