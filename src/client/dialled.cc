#include "client/dialled.hh"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>

#include "base/clock.hh"
#include "base/netns.hh"
#include "base/shortage.hh"
#include "base/signal_lock.hh"
#include "base/sockets.hh"
#include "base/sys.hh"
#include "client/kept_fds.hh"
#include "shm/bell.hh"

namespace vmsgr::client {

namespace {

// An acceptor that turns an honest dialler away was faster than its hello. The pauses make about 100 ms.
constexpr int dials_max = 14;
constexpr long first_pause_ns = 10'000;
constexpr long full_pause_ns = 500'000;
constexpr int full_queue_ms = 5000;
// A door of which nobody is left is found again so often; the pauses between make 40 ms.
constexpr int looks_at_dead_max = 12;
constexpr int trusted_patience_ms = 100;
constexpr int stranger_patience_ms = 2;

void pause_ns(long ns) noexcept {
    const timespec t{ns / 1'000'000'000, ns % 1'000'000'000};
    sys::call(SYS_nanosleep, &t, nullptr);
}

// The door refuses, so its last holder is gone. The daemon learns that a moment later: until then TCP would bring the
// connection to the daemon's copy of a socket that has no program any more.
void await_end_of(session& s, uint64_t listener) noexcept {
    long pause = first_pause_ns;
    for (int i = 0; i < looks_at_dead_max && s.lists(listener) && s.ensure(); ++i) {
        pause_ns(pause);
        pause *= 2;
    }
}

}  // namespace

int dial_local(session& s, int socket, const local_peer& to, uint32_t ring_bytes, phase state, bool acceptor_keeps_port,
               conduit_end& out) noexcept {
    char path[108];
    if (proto::door_path(s.path(), to.listener.door, path) == 0) {
        return ENAMETOOLONG;
    }
    std::optional<base::signals_blocked> together(std::in_place);
    auto slot = take_slot(to.listener.id, ring_bytes);
    auto page = take_page();
    if (!slot || !page) {
        return slot ? page.error().errnum : slot.error().errnum;
    }
    proto::dial_hello hello;
    hello.flags = acceptor_keeps_port ? uint16_t(proto::dial_keep_port) : 0;
    hello.slot = slot->index();
    hello.local = to.peer;
    hello.peer = to.source;
    const int fds[] = {socket, slot->fd()};
    const uint64_t id = s.next_id();
    // Before the hello, after which the acceptor may use the slot.
    out.stream = stream::create(std::move(*slot), std::move(*page), state, id, 0, far_end::program);
    together.reset();  // a dial may wait
    int e = EPIPE;
    long pause = first_pause_ns;
    const base::deadline limit(full_queue_ms);
    for (int i = 0;; ++i) {
        e = proto::dial_conduit(path, hello, fds, out.stream.header().end[1].flags, out.bell);
        // A connect that blocks waits for room in the queue, so that those that follow do not overtake it.
        const bool full = e == EAGAIN && state == phase::up && limit.left_ms() != 0;
        if (!full && (e != EPIPE || i >= dials_max)) {
            break;
        }
        pause_ns(pause);
        pause = full ? std::min(2 * pause, full_pause_ns) : 2 * pause;
    }
    if (e != 0) {
        out.stream.give_up_hold();
        for (auto& end : out.stream.header().end) {
            end.flags.fetch_or(shm::end_left | shm::end_done, std::memory_order_release);  // nobody got it
        }
        out.stream.recycle();
        if (e == ECONNREFUSED || e == ENOENT) {
            await_end_of(s, to.listener.id);
        }
        return e;
    }
    shm::mark_bell(out.bell.get(), id);
    describe_as(socket, to.local, to.peer, out);
    return 0;
}

bool learn_place(int tcp, daemon_listener& out) noexcept {
    out.own = base::local_name(tcp);
    if (out.own.family == 0) {
        return false;
    }
    errno = 0;
    out.netns = base::netns_cookie(tcp);
    return out.netns != 0 || !base::is_shortage(errno);
}

int listen_through_daemon(session& s, int tcp, int shown, std::string_view route, uint32_t flags, int backlog,
                          daemon_listener& out, base::unique_fd& door) noexcept {
    listening l;
    if (!learn_place(tcp, out)) {
        return errno != 0 ? errno : ENOBUFS;
    }
    if (int e = s.listen(tcp, shown, route, flags, backlog, l); e != 0) {
        return e;
    }
    drop_fd(&out.lifeline);
    out.lifeline = l.lifeline.release();
    keep_fd(&out.lifeline);
    out.word = l.word;
    out.id = l.id;
    shm::mark_bell(l.door.get(), l.id);
    door = std::move(l.door);
    return 0;
}

bool hangs_up(int lifeline) noexcept {
    pollfd p{lifeline, 0, 0};
    return lifeline < 0 || (sys::poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLNVAL)) != 0);
}

namespace {

enum class hello_look : uint8_t { came, nothing, lost };

// Of a user who could stop this process anyway, or the daemon: such a dialler that is slow was interrupted, and is
// waited for. Of others nobody waits for more than a moment.
bool is_trusted(int fd, int lifeline) noexcept {
    auto user_at = [](int socket) {
        const auto c = base::peer_credentials(socket);
        return c ? c->uid : uid_t(-1);
    };
    const uid_t uid = user_at(fd);
    return uid == 0 || uid == ::geteuid() || (uid != uid_t(-1) && uid == user_at(lifeline));
}

// Until then no stranger is waited for: who was waited for in vain costs ten times that wait. So silent diallers take a
// tenth of an acceptor's time at most.
std::atomic<int64_t> no_patience_until_ns{0};

// True: something has come, or the dialler has gone.
bool wait_for_hello(int fd, int lifeline) noexcept {
    const int64_t began = base::now_ns();
    const bool trusted = is_trusted(fd, lifeline);
    if (!trusted && began < no_patience_until_ns.load(std::memory_order_relaxed)) {
        return false;
    }
    pollfd p{fd, POLLIN, 0};
    const bool came = sys::poll(&p, 1, trusted ? trusted_patience_ms : stranger_patience_ms) == 1;
    if (!came && !trusted) {
        const int64_t now = base::now_ns();
        no_patience_until_ns.store(now + 10 * (now - began), std::memory_order_relaxed);
    }
    return came;
}

int receive_hello(int fd, proto::dial_hello& h, proto::received& got) noexcept {
    const room_for_fds room(fd);
    return proto::receive_with_fds(fd, &h, sizeof h, MSG_DONTWAIT, got);
}

// Looks for a hello for a while, then refuses it: what is sent from then on fails, and an honest dialler dials again.
// What came just before is refused too, as that end of the doorbell is no use any more; its dialler finds out at
// once.
hello_look await_hello(int fd, int lifeline, proto::dial_hello& h, proto::received& got) noexcept {
    const int64_t until = base::now_ns() + proto::hello_patience_ns;
    for (bool waited = false;;) {
        const int e = receive_hello(fd, h, got);
        if (e == 0 && got.lost) {
            return hello_look::lost;
        }
        if (e == 0) {
            return got.bytes == sizeof h && !got.truncated && h.magic == proto::dial_magic &&
                           h.version == proto::dial_version
                       ? hello_look::came
                       : hello_look::nothing;
        }
        if (e != EAGAIN && e != EINTR) {
            return base::is_shortage(e) ? hello_look::lost : hello_look::nothing;
        }
        if (base::now_ns() < until) {
            // The connection woke us: on one processor its dialler was interrupted by that, before it could speak.
            ::sched_yield();
        } else if (std::exchange(waited, true) || !wait_for_hello(fd, lifeline)) {
            sys::call(SYS_shutdown, fd, SHUT_RD);
            return hello_look::nothing;
        }
    }
}

bool same_secret(const proto::secret& a, const proto::secret& b) noexcept {
    unsigned different = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        different |= unsigned(a[i] ^ b[i]);
    }
    return different == 0;
}

// dishonest: not what an honest dialler sends. lost: it may be, but there was no memory or descriptor to find out.
enum class verdict : uint8_t { good, dishonest, lost };
verdict refused(int errnum) noexcept { return base::is_shortage(errnum) ? verdict::lost : verdict::dishonest; }

verdict take_from_daemon(proto::received& got, const daemon_listener& l, arrived& out) noexcept {
    const proto::dial_hello& h = out.hello;
    if (!same_secret(h.word, l.word) || got.fd_count != 1) {
        return verdict::dishonest;
    }
    out.by_daemon = true;
    out.local = h.local;
    out.peer = h.peer;
    if ((h.flags & proto::dial_plain) != 0) {
        errno = 0;
        out.plain = base::not_tcp(got.fds[0].get()) == nullptr;
        if (!out.plain) {
            return refused(errno);
        }
        if ((h.flags & proto::dial_end_mark) != 0) {
            const linger own = proto::unpack_linger(h.id);
            sys::setsockopt(got.fds[0].get(), SOL_SOCKET, SO_LINGER, &own, sizeof own);
        }
        out.port = std::move(got.fds[0]);
        return verdict::good;
    }
    auto slot = join_slot(std::move(got.fds[0]), h.slot);
    if (!slot) {
        return refused(slot.error().errnum);
    }
    out.slot = std::move(*slot);
    return verdict::good;
}

verdict take_from_program(session& s, proto::received& got, const daemon_listener& l, arrived& out) noexcept {
    const proto::dial_hello& h = out.hello;
    if (got.fd_count != 2) {
        return verdict::dishonest;
    }
    const proto::listener_place here{l.own, l.netns, s.one_address_plan()};
    errno = 0;
    const auto source = proto::check_source(got.fds[0].get(), h.local, here);
    if (!source) {
        return refused(errno);
    }
    auto slot = join_slot(std::move(got.fds[1]), h.slot);
    if (!slot) {
        return refused(slot.error().errnum);
    }
    const bool v6 = l.own.family == AF_INET6;
    out.local = v6 ? h.local.mapped() : h.local.unmapped();
    out.peer = v6 ? source->mapped() : *source;
    out.by_daemon = out.plain = false;
    out.slot = std::move(*slot);
    if ((h.flags & proto::dial_keep_port) != 0) {
        out.port = std::move(got.fds[0]);
    }
    return verdict::good;
}

verdict take_hello(session& s, proto::received& got, const daemon_listener& l, arrived& out) noexcept {
    return (out.hello.flags & proto::dial_by_daemon) != 0 ? take_from_daemon(got, l, out)
                                                          : take_from_program(s, got, l, out);
}

}  // namespace

int accept_dialled(session& s, int door, const daemon_listener& l, int flags, arrived& out) {
    for (bool refuses = false;;) {
        base::unique_fd fd(sys::sleeping.accept4(door, nullptr, nullptr, SOCK_CLOEXEC | (flags & SOCK_NONBLOCK)));
        if (!fd) {
            const int e = errno;
            if ((e != EAGAIN && e != EINVAL) || !hangs_up(l.lifeline)) {
                return e;  // EINVAL: the program has shut it down
            }
            if (std::exchange(refuses, true)) {
                return ESTALE;
            }
            // The daemon is gone. What waits in the door is still taken, and no more comes.
            sys::call(SYS_shutdown, door, SHUT_RD);
            continue;
        }
        proto::received got;
        const hello_look hello = await_hello(fd.get(), l.lifeline, out.hello, got);
        for (size_t i = 0; i < got.fd_count; ++i) {
            base::stop_lingering(got.fds[i].get());  // a stranger's last close would wait
        }
        const verdict v = hello == hello_look::came   ? take_hello(s, got, l, out)
                          : hello == hello_look::lost ? verdict::lost
                                                      : verdict::dishonest;
        if (v == verdict::good) {
            shm::tune_bell(fd.get());
            out.bell = std::move(fd);
            return 0;
        }
        const bool knocked = hello != hello_look::came && hangs_up(l.lifeline);
        if (knocked) {
            sys::call(SYS_shutdown, door, SHUT_RD);  // somebody knocked to say so
            refuses = true;
        }
        got.drop();
        proto::discard(std::move(fd));
        if (v == verdict::lost) {
            return ECONNABORTED;
        }
        if (!knocked) {
            s.count_turned_away();
        }
    }
}

stream make_accepted(arrived& a, held_memory page, uint64_t id) noexcept {
    auto st = stream::create(std::move(a.slot), std::move(page), phase::up, id, a.by_daemon ? 0 : 1,
                             a.by_daemon ? far_end::daemon : far_end::program);
    st.flags().fetch_or(shm::end_accepted, std::memory_order_release);
    if (a.by_daemon) {
        shm::prepare_bell(a.bell.get(), id);
    } else {
        shm::mark_bell(a.bell.get(), id);
    }
    st.page().local = a.local;
    st.page().peer = a.peer;
    st.page().family = a.local.family;
    return st;
}

}  // namespace vmsgr::client
