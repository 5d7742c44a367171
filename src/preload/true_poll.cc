#include "preload/true_poll.hh"

#include <errno.h>

#include <algorithm>
#include <span>

#include "base/clock.hh"
#include "base/sys.hh"
#include "preload/objects.hh"
#include "preload/real.hh"

namespace vmsgr::preload {

namespace {

constexpr short in_bits = POLLIN | POLLRDNORM, out_bits = POLLOUT | POLLWRNORM;
constexpr int64_t ns_a_second = 1'000'000'000;

bool has_urgent(const use& o) noexcept {
    return o && o->what == kind::stream && o->stream.has_seen_urgent() && !o->stream.is_plain();
}

bool shows_by_look(const use& o) noexcept { return o && o->what == kind::stream && o->stream.shows_by_look(); }

bool is_more_than_doorbell(int fd) noexcept {
    if (!known(fd)) {
        return false;
    }
    use o(fd);
    return has_urgent(o) || shows_by_look(o);
}

bool all_doorbells_say_all() noexcept {
    return !client::urgent_data_met.load(std::memory_order_relaxed) &&
           !client::a_low_mark_was_lowered.load(std::memory_order_relaxed);
}

// Urgent bytes leave the rings first, so that the doorbells are silent. True: more than these say is to be shown.
bool meet_all(pollfd* fds, nfds_t n) noexcept {
    bool shows = false;
    for (nfds_t i = 0; i < n; ++i) {
        use o(fds[i].fd);
        if (has_urgent(o)) {
            o->stream.meet_urgent(fds[i].fd);
            shows = shows || ((fds[i].events & POLLPRI) != 0 && o->stream.shows_urgent());
        }
        shows = shows || ((fds[i].events & in_bits) != 0 && shows_by_look(o));
    }
    return shows;
}

// The other end has asked for plain mode, and all that the doorbell shows may come from that.
bool is_turning(const use& o) noexcept {
    return o && o->what == kind::stream && o->stream.turns_plain() && !o->stream.is_plain();
}

bool shows_only_in(short revents) noexcept {
    return (revents & in_bits) != 0 && (revents & (POLLHUP | POLLERR | POLLRDHUP | POLLPRI)) == 0;
}

// It has IN for nothing, and nothing else of an end; such tokens are taken.
bool is_vain(const use& o, int fd) noexcept {
    return o && o->what == kind::stream && o->stream.shows_in_for_nothing(fd);
}

void correct(pollfd& p) noexcept {
    use o(p.fd);
    if (is_turning(o) && p.revents != 0 && is_vain(o, p.fd)) {
        p.revents = short(p.revents & out_bits);
        return;
    }
    if (shows_by_look(o)) {
        p.revents = short(p.revents | (p.events & in_bits));
    }
    if (!has_urgent(o)) {
        if (shows_only_in(p.revents) && is_vain(o, p.fd)) {
            p.revents = short(p.revents & ~in_bits);
        }
        return;
    }
    o->stream.meet_urgent(p.fd);
    const bool urgent = o->stream.shows_urgent();
    p.revents = short(urgent ? p.revents | (p.events & POLLPRI) : p.revents & ~POLLPRI);
    if ((p.revents & (POLLHUP | POLLERR | POLLRDHUP)) == 0 && o->stream.shows_nothing_else(p.fd)) {
        p.revents = short(p.revents & ~in_bits);
    }
}

template <typename Is>
bool any_in(int n, const fd_set* in, const fd_set* except, Is&& is) noexcept {
    for (int fd = 0; fd < n; ++fd) {
        if (((in != nullptr && FD_ISSET(fd, in)) || (except != nullptr && FD_ISSET(fd, except))) && is(fd)) {
            return true;
        }
    }
    return false;
}

}  // namespace

bool more_than_doorbells_among(const pollfd* fds, nfds_t n) noexcept {
    return !all_doorbells_say_all() && fds != nullptr &&
           std::any_of(fds, fds + n, [](const pollfd& p) { return is_more_than_doorbell(p.fd); });
}

bool more_than_doorbells_among(int n, const fd_set* in, const fd_set* except) noexcept {
    return !all_doorbells_say_all() && n <= FD_SETSIZE &&
           any_in(n, in, except, [](int fd) { return is_more_than_doorbell(fd); });
}

bool untrue_among_ready(int n, const fd_set* in, const fd_set* except) noexcept {
    return any_in(n, in, except, [&](int fd) {
        if (!known(fd)) {
            return false;
        }
        use o(fd);
        // select() shows an end as IN, too. One that only the doorbell knows is found when true_select() asks again.
        return has_urgent(o) || (in != nullptr && FD_ISSET(fd, in) && is_vain(o, fd));
    });
}

bool untrue_among_ready(const pollfd* fds, nfds_t n) noexcept {
    return std::any_of(fds, fds + n, [](const pollfd& p) {
        if ((p.revents & (in_bits | POLLPRI | POLLHUP | POLLERR)) == 0 || !known(p.fd)) {
            return false;
        }
        use o(p.fd);
        return has_urgent(o) || ((shows_only_in(p.revents) || is_turning(o)) && is_vain(o, p.fd));
    });
}

int true_poll(pollfd* fds, nfds_t n, const timespec* timeout, int64_t began_ns, const sigset_t* mask) {
    for (bool again = false;; again = true) {
        timespec left{};
        const bool shows = meet_all(fds, n);
        if (timeout != nullptr && !shows) {
            const int64_t ns = timeout->tv_sec * ns_a_second + timeout->tv_nsec - (base::now_ns() - began_ns);
            left = {std::max<int64_t>(ns, 0) / ns_a_second, std::max<int64_t>(ns, 0) % ns_a_second};
        }
        const bool for_ever = timeout == nullptr && !shows;
        const int r = real.ppoll(fds, n, for_ever ? nullptr : &left, mask);
        if (r < 0) {
            return r;
        }
        std::for_each(fds, fds + n, correct);
        const auto ready = std::count_if(fds, fds + n, [](const pollfd& p) { return p.revents != 0; });
        if (ready != 0 || (!for_ever && r == 0 && !shows)) {
            return int(ready);
        }
        if (again) {
            // A token of a byte that nobody may see: somebody else may have to take it.
            constexpr timespec pause{0, 1'000'000};
            sys::call(SYS_nanosleep, &pause, nullptr);
        }
    }
}

int true_select(int n, fd_set* const (&of)[3], const timespec* timeout, int64_t began_ns, const sigset_t* mask) {
    static constexpr short asked[3] = {POLLIN, POLLOUT, POLLPRI};
    static constexpr short shown[3] = {POLLIN | POLLHUP | POLLERR, POLLOUT | POLLERR, POLLPRI};
    pollfd fds[FD_SETSIZE];
    nfds_t count = 0;
    for (int fd = 0; fd < std::min(n, FD_SETSIZE); ++fd) {
        short events = 0;
        for (int i = 0; i < 3; ++i) {
            events = short(events | (of[i] != nullptr && FD_ISSET(fd, of[i]) ? asked[i] : 0));
        }
        if (events != 0) {
            fds[count++] = {fd, events, 0};
        }
    }
    if (true_poll(fds, count, timeout, began_ns, mask) < 0) {
        return -1;
    }
    if (std::any_of(fds, fds + count, [](const pollfd& p) { return (p.revents & POLLNVAL) != 0; })) {
        errno = EBADF;
        return -1;
    }
    int bits = 0;
    for (const pollfd& p : std::span(fds).first(count)) {
        for (int i = 0; i < 3; ++i) {
            if ((p.events & asked[i]) != 0 && (p.revents & shown[i]) != 0) {
                ++bits;
            } else if (of[i] != nullptr) {
                FD_CLR(p.fd, of[i]);
            }
        }
    }
    return bits;
}

}  // namespace vmsgr::preload
