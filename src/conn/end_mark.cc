#include "conn/end_mark.hh"

#include "conn/kernel_socket.hh"

namespace vmsgr::conn {

void end_mark::set(int socket) noexcept {
    linger own{};
    socklen_t len = sizeof own;
    if (_own || ::getsockopt(socket, SOL_SOCKET, SO_LINGER, &own, &len) != 0 ||
        (own.l_onoff != 0 && own.l_linger == 0)) {
        return;
    }
    const linger reset{1, 0};
    if (::setsockopt(socket, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) == 0) {
        _own = own;
    }
}

// Where the socket has another value by now, a program has set it on a socket that was lent to it.
void end_mark::lift(int socket) noexcept {
    if (_own && lingers_zero(socket)) {
        ::setsockopt(socket, SOL_SOCKET, SO_LINGER, &*_own, sizeof *_own);
    }
    _own.reset();
}

bool end_mark::program_resets(int socket) const noexcept { return !_own && lingers_zero(socket); }

}  // namespace vmsgr::conn
