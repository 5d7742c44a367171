#include "proto/dial.hh"

#include <errno.h>
#include <string.h>
#include <sys/un.h>

#include "base/netns.hh"
#include "base/sockets.hh"
#include "base/source.hh"
#include "base/sys.hh"
#include "proto/control.hh"
#include "shm/bell.hh"

namespace vmsgr::proto {

size_t door_path(std::string_view control_socket, std::string_view door, char (&out)[108]) noexcept {
    const std::string_view parts[] = {control_socket, doors_suffix, "/", door};
    size_t at = 0;
    for (auto part : parts) {
        if (at + part.size() >= sizeof out) {
            out[0] = 0;
            return 0;
        }
        memcpy(out + at, part.data(), part.size());
        at += part.size();
    }
    out[at] = 0;
    return at;
}

int dial(const char* path, const dial_hello& hello, std::span<const int> fds, base::unique_fd& bell) noexcept {
    sockaddr_un un;
    uint32_t len = 0;
    if (int e = unix_address(path, &un, len); e != 0) {
        return e;
    }
    base::unique_fd fd(sys::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) {
        return errno;
    }
    shm::tune_bell(fd.get());
    if (sys::connect(fd.get(), &un, len) != 0) {
        return errno;
    }
    int e = send_with_fds(fd.get(), &hello, sizeof hello, fds, MSG_DONTWAIT);
    if (e != 0) {
        return e == ECONNRESET ? EPIPE : e;
    }
    // Nothing more is sent by this, but it fails if the acceptor has refused meanwhile, or has taken it and is done.
    if (sys::send(fd.get(), "", 0, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        e = ESHUTDOWN;
    }
    bell = std::move(fd);
    return e;
}

int dial_conduit(const char* path, const dial_hello& hello, std::span<const int> fds,
                 const std::atomic<uint32_t>& acceptor_flags, base::unique_fd& bell) noexcept {
    const int e = dial(path, hello, fds, bell);
    if (e != ESHUTDOWN) {
        return e;
    }
    return (acceptor_flags.load(std::memory_order_acquire) & shm::end_accepted) != 0 ? 0 : EPIPE;
}

std::optional<base::address> check_source(int bound_socket, const base::address& to,
                                          const listener_place& at) noexcept {
    if (base::not_tcp(bound_socket) != nullptr || !base::is_unconnected(bound_socket)) {
        return std::nullopt;
    }
    const base::address from = base::local_name(bound_socket).unmapped(), own = at.own.unmapped();
    const base::address dest = to.unmapped();
    base::address source = from;
    if (source.is_any()) {
        source = dest;  // bound to a port alone: the kernel would choose the peer's own address
        source.port = from.port;
    }
    if (source.port == 0 || dest.port != own.port) {
        return std::nullopt;
    }
    base::address same_host = dest;
    same_host.port = source.port;
    const uint64_t netns = base::netns_cookie(bound_socket);
    if (netns == 0) {
        return std::nullopt;
    }
    if (netns == at.netns) {
        const bool reached = own == dest || own.is_any();
        const bool possible = source == same_host || (source.is_loopback() && dest.is_loopback());
        // IP_FREEBIND lets anybody bind to an address that is not this host's.
        const bool ours = dest.is_loopback() || !own.is_any() || base::is_own_address(dest);
        return reached && possible && ours ? std::optional(source) : std::nullopt;
    }
    // From another namespace: only between addresses that mean the same in both.
    const bool told = at.one_address_plan && own == dest && !from.is_any() && !from.is_loopback() && !own.is_any() &&
                      !own.is_loopback();
    return told ? std::optional(source) : std::nullopt;
}

}  // namespace vmsgr::proto
