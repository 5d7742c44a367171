#include "client/carry.hh"

#include <errno.h>
#include <fcntl.h>

#include "base/sys.hh"
#include "shm/bell.hh"
#include "shm/segment.hh"

namespace vmsgr::client {

namespace {

constexpr int copied_flags = O_NONBLOCK | O_ASYNC;

void copy_timeout(int from, int to, int name) noexcept {
    timeval t{};
    socklen_t len = sizeof t;
    if (sys::getsockopt(from, SOL_SOCKET, name, &t, &len) == 0 && (t.tv_sec != 0 || t.tv_usec != 0)) {
        sys::setsockopt(to, SOL_SOCKET, name, &t, len);
    }
}

base::address name_of(int fd, long call) noexcept {
    sockaddr_storage ss{};
    socklen_t len = sizeof ss;
    if (::syscall(call, fd, &ss, &len) != 0) {
        return {};
    }
    return base::from_sockaddr(reinterpret_cast<sockaddr*>(&ss), len).value_or(base::address{});
}

}  // namespace

int socket_option(int fd, int name) noexcept {
    int value = 0;
    socklen_t len = sizeof value;
    return sys::getsockopt(fd, SOL_SOCKET, name, &value, &len) == 0 ? value : -1;
}

base::address local_name(int fd) noexcept { return name_of(fd, SYS_getsockname); }
base::address peer_name(int fd) noexcept { return name_of(fd, SYS_getpeername); }

void copy_description(int from, int to) noexcept {
    int old = sys::fcntl(from, F_GETFL);
    int now = sys::fcntl(to, F_GETFL);
    if (old >= 0 && now >= 0 && ((old ^ now) & copied_flags) != 0) {
        sys::fcntl(to, F_SETFL, (now & ~copied_flags) | (old & copied_flags));
    }
    copy_timeout(from, to, SO_RCVTIMEO);
    copy_timeout(from, to, SO_SNDTIMEO);
}

bool make_conduit_end(uint32_t ring_bytes, int socket, const base::address& peer, phase state,
                      conduit_end& out, far_end other) noexcept {
    auto conduit = shm::create_conduit(ring_bytes, random_key());
    if (!conduit) {
        errno = conduit.error().errnum;
        return false;
    }
    auto end = shm::create_end_page();
    auto bell = shm::make_bell();
    if (!end || !bell) {
        errno = end ? bell.error().errnum : end.error().errnum;
        return false;
    }
    const uint64_t key = conduit->memory.header().key;
    out.stream = stream::create(std::move(conduit->memory), std::move(end->memory), state, key, 0, other);
    if (other == far_end::daemon) {
        shm::prepare_bell(*bell, key);
    } else {
        shm::mark_bell(bell->program.get(), key);
    }
    auto& page = out.stream.page();
    page.family = uint16_t(socket_option(socket, SO_DOMAIN));
    page.local = local_name(socket);
    // A socket that is connected already may be in phase `connecting` here, until the daemon has agreed.
    const bool pending = state == phase::connecting;
    page.peer = pending || other == far_end::program ? peer : peer_name(socket);
    if (!pending && page.peer.family == 0) {
        page.peer = peer;  // reset meanwhile; the daemon will say so
    }
    copy_description(socket, bell->program.get());
    page.nonblocking.store((sys::fcntl(socket, F_GETFL) & O_NONBLOCK) != 0, std::memory_order_relaxed);
    if (pending) {
        out.stream.start_connecting(bell->program.get());
    }
    out.bell = std::move(bell->program);
    out.other = std::move(bell->other);
    out.memory = std::move(conduit->fd);
    out.page = std::move(end->fd);
    return true;
}

bool post(session& s, const conduit_end& end, int socket, int shown, const base::address& peer, std::string_view route,
          uint64_t listener) noexcept {
    job j{.key = end.stream.page().key,
          .fd = shown,
          .address = peer,
          .route = route,
          .ring_bytes = s.ring_bytes(),
          .listener = listener};
    return s.post_connect(j, end.memory.get(), end.other.get(), socket, end.page.get());
}

}  // namespace vmsgr::client
