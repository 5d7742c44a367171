#include "client/streams/options.hh"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#include <algorithm>

#include "base/address.hh"
#include "base/names.hh"
#include "base/sys.hh"
#include "base/unique_fd.hh"

namespace vmsgr::client {

namespace {

base::unique_fd fresh_socket(int family) noexcept {
    return base::unique_fd(sys::socket(family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP));
}

// What only a connection has: asked of one that is made for the question, on this host as ours is. Its values are
// true of any such connection.
bool needs_connection(int level, int name) noexcept {
    return (level == IPPROTO_TCP && (name == TCP_INFO || name == TCP_MAXSEG || name == TCP_QUICKACK)) ||
           (level == IPPROTO_IP && name == IP_MTU) || (level == IPPROTO_IPV6 && name == IPV6_MTU) ||
           (level == SOL_SOCKET && (name == SO_INCOMING_CPU || name == SO_SNDBUF || name == SO_RCVBUF));
}

// The socket is connected to itself where loopback allows it: TCP's simultaneous open, which needs no other one.
void connect_to_self(int socket, int family) noexcept {
    sockaddr_storage ss{};
    socklen_t size = base::to_sockaddr(base::loopback(uint16_t(family), 0), ss);
    if (sys::call(SYS_bind, socket, &ss, size) == 0) {
        size = base::to_sockaddr(base::local_name(socket), ss);
        sys::connect(socket, &ss, size);
    }
}

// The kernel refuses these where a connection stands, and takes them before.
bool is_too_late(int level, int name) noexcept {
    return level == IPPROTO_TCP && (name == TCP_FASTOPEN || name == TCP_FASTOPEN_CONNECT);
}

// Set for each message by some programs; the kernel takes any int for them from anybody.
bool always_taken(int level, int name, const void* value, socklen_t bytes) noexcept {
    return level == IPPROTO_TCP && (name == TCP_NODELAY || name == TCP_CORK || name == TCP_QUICKACK) &&
           value != nullptr && bytes == sizeof(int);
}

}  // namespace

std::span<const option_set> option_list::sets() const noexcept {
    return std::span(_sets).first(std::min(_count, options_max));
}

uint32_t option_list::index_of(int level, int name) const noexcept {
    auto all = sets();
    auto is = [&](const option_set& s) { return s.level == level && s.name == name; };
    return uint32_t(std::ranges::find_if(all, is) - all.begin());
}

void option_list::note(int level, int name, const void* value, socklen_t bytes) noexcept {
    if (bytes > option_bytes_max || value == nullptr) {
        return;
    }
    uint32_t count = uint32_t(sets().size());
    uint32_t at = index_of(level, name);
    if (at == options_max) {
        return;
    }
    // A repeated one goes to the end: options may depend on each other.
    if (at < count) {
        std::copy(_sets.begin() + at + 1, _sets.begin() + count, _sets.begin() + at);
        --count;
    }
    option_set& s = _sets[count];
    s = {level, name, bytes, {}};
    memcpy(s.value.data(), value, bytes);
    _count = count + 1;
}

void option_list::forget(int level, int name) noexcept {
    const uint32_t count = uint32_t(sets().size()), at = index_of(level, name);
    if (at < count) {
        std::copy(_sets.begin() + at + 1, _sets.begin() + count, _sets.begin() + at);
        _count = count - 1;
    }
}

bool sizes_buffers(int level, int name) noexcept {
    return (level == SOL_SOCKET &&
            (name == SO_SNDBUF || name == SO_RCVBUF || name == SO_SNDBUFFORCE || name == SO_RCVBUFFORCE)) ||
           (level == IPPROTO_TCP && name == TCP_NOTSENT_LOWAT);
}

bool option_list::has_buffers() const noexcept {
    return std::ranges::any_of(sets(), [](const option_set& s) { return sizes_buffers(s.level, s.name); });
}

base::asked_buffers option_list::asked_buffers(int family) const noexcept {
    auto socket = fresh_socket(family);
    if (!socket) {
        return {};
    }
    apply(socket.get());
    return base::buffers_asked_of(socket.get());
}

bool option_list::find(int level, int name, void* value, socklen_t& bytes) const noexcept {
    uint32_t at = index_of(level, name);
    if (at >= sets().size()) {
        return false;
    }
    const option_set& s = _sets[at];
    bytes = std::min({bytes, s.bytes, option_bytes_max});
    memcpy(value, s.value.data(), bytes);
    return true;
}

int option_list::set(int family, int level, int name, const void* value, socklen_t bytes) noexcept {
    if (always_taken(level, name, value, bytes)) {
        note(level, name, value, bytes);
        return 0;
    }
    if (level == IPPROTO_IPV6 && name == IPV6_V6ONLY && family == AF_INET6) {
        errno = EINVAL;  // too late for any socket that has a port
        return -1;
    }
    linger before{};
    socklen_t whole = sizeof before;
    find(SOL_SOCKET, SO_LINGER, &before, whole);
    auto socket = fresh_socket(family);
    if (!socket) {
        note(level, name, value, bytes);  // no descriptor is free: believed
        return 0;
    }
    if (is_too_late(level, name)) {
        connect_to_self(socket.get(), family);
    }
    int r = sys::setsockopt(socket.get(), level, name, value, bytes);
    if (r == 0) {
        note(level, name, value, bytes);
        if (level == SOL_SOCKET && name == SO_LINGER) {
            keep_linger_time(before);
        }
    }
    return r;
}

// Turned off, it keeps the time that it had.
void option_list::keep_linger_time(const linger& before) noexcept {
    linger now{};
    socklen_t whole = sizeof now;
    if (find(SOL_SOCKET, SO_LINGER, &now, whole) && now.l_onoff == 0) {
        now.l_linger = before.l_linger;
        note(SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
}

int option_list::get(int family, int level, int name, void* value, socklen_t* bytes) const noexcept {
    linger off{1, 0};
    socklen_t of_linger = sizeof off;
    if (level == SOL_SOCKET && name == SO_LINGER && find(level, name, &off, of_linger) && off.l_onoff == 0 &&
        value != nullptr && bytes != nullptr && int(*bytes) >= 0) {
        *bytes = std::min<socklen_t>(*bytes, sizeof off);  // a fresh socket would not take the time
        memcpy(value, &off, *bytes);
        return 0;
    }
    auto socket = fresh_socket(family);
    if (!socket) {
        if (value == nullptr || bytes == nullptr) {
            errno = EFAULT;
            return -1;
        }
        socklen_t whole = *bytes;
        if (!find(level, name, value, whole)) {
            memset(value, 0, whole);
        }
        *bytes = whole;
        return 0;
    }
    if (needs_connection(level, name)) {
        connect_to_self(socket.get(), family);
    }
    apply(socket.get());
    int r = sys::getsockopt(socket.get(), level, name, value, bytes);
    if (needs_connection(level, name)) {
        const linger none_left_behind{1, 0};
        sys::setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &none_left_behind, sizeof none_left_behind);
    }
    return r;
}

void option_list::apply(int socket) const noexcept {
    for (const option_set& s : sets()) {
        sys::setsockopt(socket, s.level, s.name, s.value.data(), std::min(s.bytes, option_bytes_max));
    }
}

void option_list::move_to(int socket) noexcept {
    apply(socket);
    _count = 0;
}

}  // namespace vmsgr::client
