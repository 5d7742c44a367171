#include "client/hand_over.hh"

#include <errno.h>
#include <fcntl.h>

#include "base/sockets.hh"
#include "base/sys.hh"
#include "shm/bell.hh"

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

bool failed_with(const base::error& e) noexcept {
    errno = e.errnum;
    return false;
}

}  // namespace

int copy_description(int from, int to) noexcept {
    // Before O_ASYNC: who is told, and by which signal.
    f_owner_ex owner{};
    if (sys::fcntl(from, F_GETOWN_EX, long(&owner)) == 0 && owner.pid != 0) {
        sys::fcntl(to, F_SETOWN_EX, long(&owner));
    }
    if (const int sig = sys::fcntl(from, F_GETSIG); sig > 0) {
        sys::fcntl(to, F_SETSIG, sig);
    }
    int old = sys::fcntl(from, F_GETFL);
    int now = sys::fcntl(to, F_GETFL);
    if (old >= 0 && now >= 0 && ((old ^ now) & copied_flags) != 0) {
        sys::fcntl(to, F_SETFL, (now & ~copied_flags) | (old & copied_flags));
    }
    copy_timeout(from, to, SO_RCVTIMEO);
    copy_timeout(from, to, SO_SNDTIMEO);
    return old;
}

void describe_as(int socket, const base::address& local, const base::address& peer, conduit_end& out) noexcept {
    auto& page = out.stream.page();
    page.family = local.family;
    page.local = local;
    page.peer = peer;
    const int flags = copy_description(socket, out.bell.get());
    page.nonblocking.store((flags & O_NONBLOCK) != 0, std::memory_order_relaxed);
    out.wants_signals = (flags & O_ASYNC) != 0;
}

bool make_conduit_end(session& s, int socket, const base::address& peer, phase state, conduit_end& out) noexcept {
    auto slot = take_slot(towards_daemon, s.ring_bytes());
    if (!slot) {
        return failed_with(slot.error());
    }
    auto page = take_page();
    auto bell = shm::make_bell();
    if (!page || !bell) {
        return failed_with(page ? bell.error() : page.error());
    }
    const uint64_t id = s.next_id();
    out.stream = stream::create(std::move(*slot), std::move(*page), state, id);
    shm::prepare_bell(bell->program.get(), id);
    out.bell = std::move(bell->program);
    out.other = std::move(bell->other);
    // A socket that is connected already may be in phase `connecting` here, until the daemon has agreed.
    const base::address connected = state == phase::connecting ? base::address{} : base::peer_name(socket);
    // None: reset meanwhile; the daemon will say so.
    describe_as(socket, base::local_name(socket), connected.family == 0 ? peer : connected, out);
    if (state == phase::connecting) {
        out.stream.start_connecting(out.bell.get());
    }
    return true;
}

bool hand_over(session& s, const conduit_end& end, int socket, int shown, const base::address& peer,
               std::string_view route, std::optional<proto::without_trunk> by_trunk) noexcept {
    job j{.id = end.stream.page().id,
          .fd = shown,
          .peer = peer,
          .route = route,
          .slot = end.stream.slot().index(),
          .by_trunk = by_trunk};
    // The socket may be lost on its way, with this program or with the daemon: that is not to be an end of file.
    if (!by_trunk && s.knows_end_marks()) {
        j.own_linger = base::linger_no_time(socket);
    }
    const int fds[] = {end.other.get(), socket, end.stream.slot().fd()};
    const bool posted = s.post_connect(j, fds);
    if (!posted && j.own_linger) {
        sys::setsockopt(socket, SOL_SOCKET, SO_LINGER, &*j.own_linger, sizeof *j.own_linger);
    }
    return posted;
}

}  // namespace vmsgr::client
