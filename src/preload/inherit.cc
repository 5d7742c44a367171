#include "preload/inherit.hh"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include <array>
#include <utility>

#include "base/clock.hh"
#include "base/rights.hh"
#include "base/sockets.hh"
#include "base/sys.hh"
#include "client/streams/late_tokens.hh"
#include "preload/listening.hh"
#include "preload/objects.hh"
#include "preload/real.hh"
#include "preload/runtime.hh"
#include "preload/vfork_child.hh"

namespace vmsgr::preload {

using proto::plain_cause;

namespace {

// For all connections that have to turn plain at once: a peer that does not agree holds this program up no longer.
constexpr int patience_ms = 3000;

// What is deposited of a stream: where its memory is in the two files.
struct stream_place {
    uint32_t slot = 0;
    uint32_t page = 0;
};

// A number of ours with the same open socket, or -1. The mark tells where to look, the kernel whether it is so.
int number_of(uint64_t mark, int fd) noexcept {
    const uint64_t cookie = base::socket_cookie(fd);
    for (int n = 0; n <= highest_number(); ++n) {
        object* o = at_number(n);
        if (o != nullptr && o->what == kind::stream && o->stream.page().id == mark &&
            base::socket_cookie(n) == cookie) {
            return n;
        }
    }
    return -1;
}

object* inherited_stream(client::inherited& from) noexcept {
    stream_place at;
    memcpy(&at, from.data.data(), sizeof at);
    if (from.fd_count != 2) {
        return nullptr;
    }
    auto slot = client::join_slot(std::move(from.fds[0]), at.slot);
    auto page = client::join_page(std::move(from.fds[1]), at.page);
    if (!slot || !page) {
        return nullptr;
    }
    auto stream = client::stream::adopt(std::move(*slot), std::move(*page));
    if (!stream) {
        return nullptr;
    }
    table_lock l;
    object* o = new_object(kind::stream);
    if (o != nullptr) {
        o->stream = std::move(stream);
    }
    return o;
}

bool is_listener(int fd) noexcept { return base::socket_option(fd, SO_ACCEPTCONN) == 1; }

void take(int fd) noexcept {
    const uint64_t mark = shm::mark_of_bell(fd);
    if (mark == 0) {
        return;
    }
    object* stale = nullptr;
    bool known_already = false;
    {
        table_lock l;
        if (int same = number_of(mark, fd); same >= 0) {
            known_already = true;
            if (same != fd) {
                stale = set_number(fd, at_number(same));
            }
        }
    }
    if (!known_already) {
        client::inherited from;
        object* o = nullptr;
        if (runtime().session.adopt(fd, from) == 0) {
            o = is_listener(fd) ? inherited_listener(from) : inherited_stream(from);
        }
        if (o == nullptr) {
            log("descriptor %d was a connection, but nobody of this user left it with vmsgrd", fd);
            return;
        }
        table_lock l;
        stale = set_number(fd, o);
    }
    if (stale != nullptr) {
        finish(stale);
    }
}

// Leaves with the daemon what an heir needs of the object behind fd, once a session. True: something was sent.
bool leave(int fd, object& o) noexcept {
    auto& session = runtime().session;
    if (o.what == kind::listener && o.listener.by_daemon.load()) {
        if (!session.ensure() || o.listener.deposited.exchange(session.id()) == session.id()) {
            return false;
        }
        deposit_listener(fd, o);
        return true;
    }
    if (o.what != kind::stream) {
        return false;
    }
    auto& page = o.stream.page();
    if (!session.ensure() || page.deposited.exchange(session.id()) == session.id()) {
        return false;
    }
    const stream_place at{o.stream.slot().index(), o.stream.held_page().index()};
    const int left[] = {o.stream.slot().fd(), o.stream.held_page().fd()};
    std::array<uint8_t, sizeof at> data;
    memcpy(data.data(), &at, sizeof at);
    session.deposit(fd, left, data);
    return true;
}

// For one that gets this number. True: something was sent.
bool deposit(int fd) noexcept {
    use o(fd);
    if (o && o->what == kind::stream) {
        o->stream.send_late_token(fd);
        o->stream.show_late_bytes(fd, 0);
        o->stream.add_holder();
    }
    return o && leave(fd, *o.get());
}

bool has_connections() noexcept {
    for (int fd = 0; fd <= highest_number(); ++fd) {
        use o(fd);
        if (o && (o->what == kind::stream || (o->what == kind::listener && o->listener.by_daemon.load()))) {
            return true;
        }
    }
    return false;
}

}  // namespace

void leave_for_heirs() noexcept {
    bool sent = false;
    for (int fd = 0; fd <= highest_number(); ++fd) {
        use o(fd);
        sent = (o && leave(fd, *o.get())) || sent;
    }
    if (sent) {
        runtime().session.await_settled();
    }
}

void serve_inside_libc(int fd, plain_cause why) noexcept {
    use o(fd, kind::stream);
    if (o && (!o->stream.is_plain() || o->stream.is_left_behind(fd))) {
        const int saved = errno;
        const bool done = o->stream.become_plain(fd, base::deadline(patience_ms), why);
        log("connection %d %s: %s", fd, done ? "turns plain" : "is reset", to_text(why));
        errno = saved;
    }
}

void serve_stdio(int fd) noexcept {
    if (fd <= STDERR_FILENO) {
        serve_inside_libc(fd, plain_cause::stdio);
    }
}

void leave_to_kernel(plain_cause why) noexcept {
    if (!active.exchange(false)) {
        return;
    }
    const int saved = errno;
    const base::deadline until(patience_ms);
    log("this program's connections stay the kernel's from now on: %s", to_text(why));
    runtime().session.show_left_to_kernel(why);
    for (int fd = 0; fd <= highest_number(); ++fd) {
        use o(fd);
        if (o && o->what == kind::stream) {
            o->stream.become_plain(fd, until, why);
        } else if (o && o->what == kind::listener && o->listener.by_daemon.load()) {
            give_listener_to_kernel(fd, o.get());
        }
    }
    errno = saved;
}

void take_inheritance() noexcept {
    if (!was_told()) {
        return;
    }
    for (int fd = 0; fd < inherited_fds_max; ++fd) {
        take(fd);
    }
    // Once all numbers of a connection are known: it may go on with another socket.
    for (int fd = 0; fd <= STDERR_FILENO; ++fd) {
        serve_stdio(fd);
    }
}

void take_received(const msghdr* m) noexcept { base::each_right(*m, take); }

namespace {

// Without the library nobody may have a doorbell, or a door. `number`: what the table calls that which fd shows.
void make_plain(int fd, int number, plain_cause why, const base::deadline& until) noexcept {
    use o(number);
    if (!o) {
        return;
    }
    if (o->what == kind::stream) {
        const bool done = o->stream.become_plain(fd, until, why);
        log("connection %d %s: %s", fd, done ? "turns plain" : "is reset", to_text(why));
        if (in_vfork_child()) {
            return o->stream.add_holder();
        }
        o.drop();
        if (deposit(fd)) {
            runtime().session.await_settled();  // for its own heirs that have the library: names and options
        }
    } else if (o->what == kind::listener && o->listener.by_daemon.load()) {
        log("listener %d becomes the kernel's: %s", fd, to_text(why));
        give_listener_to_kernel(fd, o.get());
    }
}

}  // namespace

void note_sent(int unix_socket, const msghdr* m) noexcept {
    const int saved = errno;
    const base::deadline until(patience_ms);
    bool sent = false, asked = false;
    auto why = plain_cause::none;
    base::each_right(*m, [&](int fd) noexcept {
        {
            use o(fd);
            if (!o || (o->what != kind::stream && o->what != kind::listener)) {
                return;
            }
            if (!std::exchange(asked, true)) {
                why = why_plain(unix_socket);
            }
            if (o->what == kind::listener) {
                o->listener.page->holders.fetch_add(1);
            }
        }
        if (why != plain_cause::none) {
            make_plain(fd, fd, why, until);
        } else {
            sent = deposit(fd) || sent;
        }
    });
    if (sent) {
        runtime().session.await_settled();
    }
    errno = saved;
}

namespace {

// Passed on by exec, or named by whoever prepared a spawn.
bool survives_exec(int fd, const object& o) noexcept {
    const int flags = sys::fcntl(fd, F_GETFD);
    return (o.spawned && !in_vfork_child()) || (flags >= 0 && (flags & FD_CLOEXEC) == 0);
}

// Calls each(fd, number): what this process has under fd, and what the table calls it.
template <typename Each>
void each_number(Each&& each) noexcept {
    if (!in_vfork_child()) {
        for (int fd = 0; fd <= highest_number(); ++fd) {
            if (known(fd)) {
                each(fd, fd);
            }
        }
        return;
    }
    for (int fd = 0; fd < inherited_fds_max; ++fd) {
        if (const int number = number_in_parent(fd); number >= 0) {
            each(fd, number);
        }
    }
}

// The heir is a holder of what it gets. One that is this very process is counted already.
void count_heir(starts where) noexcept {
    if (where == starts::here && !in_vfork_child()) {
        return;
    }
    int before = -1;
    each_number([&](int fd, int number) noexcept {
        use o(number);
        if (!o || number == before || !survives_exec(fd, *o.get())) {
            return;
        }
        if (o->what == kind::listener && o->listener.by_daemon.load()) {
            o->listener.page->holders.fetch_add(1);
        } else if (o->what == kind::stream) {
            o->stream.add_holder();
        }
        before = number;  // of its duplicates, those that lie together count once; too many do no harm
    });
}

}  // namespace

void prepare_heir(const successor& next, char* const* envp, starts where) noexcept {
    if (!active.load(std::memory_order_relaxed) || envp == nullptr || !has_connections()) {
        return;
    }
    const int saved = errno;
    client::pay_owed_tokens();
    const base::deadline until(patience_ms);
    const bool starts_none = !will_start(next);
    const auto why = starts_none ? plain_cause::none : why_plain(next, envp);
    if (why != plain_cause::none) {
        each_number([&](int fd, int number) noexcept {
            bool survives = false;
            if (use o(number); o) {
                survives = survives_exec(fd, *o.get());
            }
            if (survives) {
                make_plain(fd, number, why, until);
            }
        });
    } else if (!starts_none) {
        if (!in_vfork_child()) {
            leave_for_heirs();
        }
        count_heir(where);
    }
    errno = saved;
}

}  // namespace vmsgr::preload
