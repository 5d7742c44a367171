#include "client/carry.hh"

#include <errno.h>
#include <fcntl.h>

#include "base/sys.hh"
#include "client/kept.hh"
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

}  // namespace

int socket_option(int fd, int name) noexcept {
    int value = 0;
    socklen_t len = sizeof value;
    return sys::getsockopt(fd, SOL_SOCKET, name, &value, &len) == 0 ? value : -1;
}

int copy_description(int from, int to) noexcept {
    int old = sys::fcntl(from, F_GETFL);
    int now = sys::fcntl(to, F_GETFL);
    if (old >= 0 && now >= 0 && ((old ^ now) & copied_flags) != 0) {
        sys::fcntl(to, F_SETFL, (now & ~copied_flags) | (old & copied_flags));
    }
    copy_timeout(from, to, SO_RCVTIMEO);
    copy_timeout(from, to, SO_SNDTIMEO);
    return old;
}

namespace {

// What an end has of its socket, whoever has the other end. `out.stream` and the doorbell are there.
void describe(int socket, const base::address& peer, phase state, far_end other, conduit_end& out) noexcept {
    auto& page = out.stream.page();
    page.family = uint16_t(socket_option(socket, SO_DOMAIN));
    page.local = local_name(socket);
    // A socket that is connected already may be in phase `connecting` here, until the daemon has agreed.
    const bool pending = state == phase::connecting;
    page.peer = pending || other == far_end::program ? peer : peer_name(socket);
    if (!pending && page.peer.family == 0) {
        page.peer = peer;  // reset meanwhile; the daemon will say so
    }
    const int flags = copy_description(socket, out.bell.get());
    page.nonblocking.store((flags & O_NONBLOCK) != 0, std::memory_order_relaxed);
}

bool failed_with(const base::error& e) noexcept {
    errno = e.errnum;
    return false;
}

}  // namespace

bool make_conduit_end(uint32_t ring_bytes, int socket, const base::address& peer, phase state,
                      conduit_end& out, far_end other) noexcept {
    auto conduit = shm::create_conduit(ring_bytes, random_key());
    if (!conduit) {
        return failed_with(conduit.error());
    }
    auto end = shm::create_end_page();
    auto bell = shm::make_bell();
    if (!end || !bell) {
        return failed_with(end ? bell.error() : end.error());
    }
    const uint64_t key = conduit->memory.header().key;
    out.stream = stream::create(std::move(conduit->memory), std::move(end->memory), state, key, 0, other);
    if (other == far_end::daemon) {
        shm::prepare_bell(*bell, key);
    } else {
        shm::mark_bell(bell->program.get(), key);
    }
    out.bell = std::move(bell->program);
    out.other = std::move(bell->other);
    out.memory = std::move(conduit->fd);
    out.page = std::move(end->fd);
    describe(socket, peer, state, other, out);
    if (state == phase::connecting) {
        out.stream.start_connecting(out.bell.get());
    }
    return true;
}

bool make_local_end(session& s, int socket, const base::address& peer, phase state, uint64_t listener,
                    conduit_end& out) noexcept {
    auto old = kept().take_for(listener, s.current());
    if (old) {
        auto bell = shm::make_bell();
        if (!bell) {
            return failed_with(bell.error());
        }
        shm::renew_conduit(old->memory.header());
        shm::mark_bell(bell->program.get(), old->key);
        out.stream = stream::create(std::move(old->memory), std::move(old->page), state, old->key, 0, far_end::program);
        out.bell = std::move(bell->program);
        out.other = std::move(bell->other);
        describe(socket, peer, state, far_end::program, out);
    } else if (!make_conduit_end(s.ring_bytes(), socket, peer, state, out, far_end::program)) {
        return false;
    }
    out.stream.page().listener = listener;
    out.stream.page().session = s.current();
    return true;
}

bool post(session& s, const conduit_end& end, int socket, int shown, const base::address& peer, std::string_view route,
          uint64_t listener, bool by_trunk) noexcept {
    job j{.key = end.stream.page().key,
          .fd = shown,
          .address = peer,
          .route = route,
          .ring_bytes = s.ring_bytes(),
          .by_trunk = by_trunk,
          .listener = listener,
          .session = listener != 0 ? end.stream.page().session : 0};
    if (!end.memory) {
        const int again[] = {end.other.get(), socket};  // the daemon has memory and page from before
        return s.post_connect(j, again);
    }
    const int fds[] = {end.memory.get(), end.other.get(), socket, end.page.get()};
    return s.post_connect(j, fds);
}

}  // namespace vmsgr::client
