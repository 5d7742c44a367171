#include "client/channels/channel_open.hh"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#include "base/clock.hh"
#include "base/source.hh"
#include "base/sys.hh"
#include "client/dialled.hh"
#include "client/failures.hh"

namespace vmsgr::client {

base::error unfit(const open_options& o, uint64_t ring_bytes) {
    const uint32_t most = message_bytes_in(ring_bytes);
    if (o.settings.max_message_bytes > most) {
        return {EINVAL, "max_message_bytes " + std::to_string(o.settings.max_message_bytes) + " is more than the " +
                            std::to_string(most) +
                            " that half a ring takes: raise ring_bytes in vmsgrd's "
                            "configuration"};
    }
    return {};
}

base::result<std::unique_ptr<channel>> make_channel(new_end end, const std::shared_ptr<session>& s,
                                                    const channel_settings& settings) {
    const auto memory = end.memory.conduit();
    auto rings = shm::map_doubled(end.memory.fd(), end.memory.rings_at(), memory.capacity);
    if (!rings) {
        return std::unexpected(rings.error());
    }
    if (end.accepted) {
        memory.header().end[end.which].flags.fetch_or(shm::end_accepted, std::memory_order_release);
    }
    channel_parts parts{memory, std::move(*rings),     std::move(end.bell), end.which, end.local, end.self, end.peer,
                        s,      std::move(end.memory), std::move(end.port)};
    if (end.local && s) {
        parts.shown = s->show_local({parts.bell.get(), parts.self, parts.peer, end.accepted, end.name});
    }
    return std::make_unique<channel>(std::move(parts), settings);
}

namespace {

// 0, or why the kernel does not connect.
int connect_within(int socket, const base::address& to, const base::deadline& limit) {
    sockaddr_storage ss{};
    const socklen_t length = base::to_sockaddr(to, ss);
    if (sys::connect(socket, &ss, length) == 0) {
        return 0;
    }
    if (errno != EINPROGRESS) {
        return errno;
    }
    for (;;) {
        pollfd p{socket, POLLOUT, 0};
        int r = sys::poll(&p, 1, limit.left_ms());
        if (r == 0) {
            return ETIMEDOUT;
        }
        if (r == 1) {
            return base::socket_option(socket, SO_ERROR);
        }
        if (errno != EINTR) {
            return errno;
        }
    }
}

base::error unreached(int e, const base::address& to) {
    const std::string where = base::to_string(to);
    switch (e) {
    case ECONNREFUSED: return {e, "nobody listens on " + where + ": start the other side first"};
    case ETIMEDOUT: return {e, "no answer from " + where + " in time: is the address right, and the way there open?"};
    default: return {e, "cannot connect to " + where + ": " + strerror(e)};
    }
}

// All ways end in a conduit. The socket goes to the daemon: for the port, for the bytes, or for it to find the way.
base::result<new_end> join(session& s, const std::string& daemon, const base::address& to, const open_options& o,
                           const base::deadline& limit) {
    base::unique_fd socket(sys::socket(to.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
    if (!socket) {
        return std::unexpected(base::os_error("no socket for a channel"));
    }
    conduit_end end;
    const local_peer local = find_local_peer(s, socket.get(), to);
    if (local.listener.id != 0 && dial_local(s, socket.get(), local, s.ring_bytes(), phase::up, false, end) == 0) {
        const auto self = end.stream.page().local;
        return new_end{
            end.stream.take_memory(), std::move(end.bell), std::move(socket), 0, true, self, local.peer, false, o.name};
    }
    const int on = 1;
    sys::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    proto::route route;
    if (int e = s.way(proto::role::client, to, route); e != 0) {
        return std::unexpected(untaken(e, to));
    }
    const bool by_trunk = route.way == proto::via::trunk && bind_for_trunk(s, socket.get(), to);
    if (!by_trunk && route.only_by_trunk() && !base::is_this_host(to)) {
        return std::unexpected(unreached(ENETUNREACH, to));
    }
    if (int e = by_trunk ? 0 : connect_within(socket.get(), to, limit); e != 0) {
        return std::unexpected(unreached(e, to));
    }
    // To the daemon a connected socket is a connect that is still to be decided, so its answer comes before any data.
    if (!make_conduit_end(s, socket.get(), to, phase::connecting, end)) {
        return std::unexpected(base::os_error("no conduit for a channel (see ulimit -n and the memory)"));
    }
    if (!hand_over(s, end, socket.get(), end.bell.get(), to, o.name,
                   by_trunk ? std::optional(route.without_trunk) : std::nullopt)) {
        return base::fail(EAGAIN, "vmsgrd at " + daemon +
                                      " takes no job now (just ended, or its list is full): try "
                                      "again");
    }
    end.other.reset();  // so that theirs is the last, and its end is seen
    // A connected socket is taken at once, or not at all; a way by trunk may take its time.
    const int e = by_trunk ? await_verdict(end.stream, end.bell.get(), limit.left_ms())
                           : await_verdict(end.stream, end.bell.get());
    if (e != 0) {
        end.stream.flags().fetch_or(shm::end_recalled, std::memory_order_release);
        return std::unexpected(by_trunk && (e == ECONNREFUSED || e == ETIMEDOUT) ? unreached(e, to) : untaken(e, to));
    }
    const auto self = end.stream.page().local;
    return new_end{end.stream.take_memory(), std::move(end.bell), {}, 0, false, self, to, false, o.name};
}

}  // namespace

base::result<std::unique_ptr<channel>> connect_channel(const std::shared_ptr<session>& s, const std::string& daemon,
                                                       const base::address& to, const open_options& o) {
    if (auto bad = unfit(o, s->ring_bytes()); bad.errnum != 0) {
        return std::unexpected(bad);
    }
    const base::deadline limit(o.timeout_ms);
    auto end = join(*s, daemon, to, o, limit);
    if (!end) {
        return std::unexpected(end.error());
    }
    auto c = make_channel(std::move(*end), s, o.settings);
    if (!c) {
        return c;
    }
    int e = EINTR;
    while (e == EINTR) {
        e = (*c)->greet(limit.left_ms());
    }
    if (e == 0) {
        return c;
    }
    const std::string where = base::to_string(to);
    if ((*c)->ended() == channel_end::open) {
        return base::fail(ETIMEDOUT, where + " has not accepted the channel in time: does it call accept, and is it a "
                                             "channel's listener?");
    }
    if ((*c)->ended() == channel_end::cut || (*c)->ended() == channel_end::reset) {
        return base::fail(ECONNRESET, where + " ended the connection before a word: no channel's listener, or a limit "
                                              "of vmsgrd's");
    }
    return base::fail(e, how_it_ended(**c));
}

}  // namespace vmsgr::client
