#include "attach/connector.hh"

#include <errno.h>
#include <sys/socket.h>

#include "base/file_id.hh"
#include "base/netns.hh"
#include "base/sockets.hh"
#include "base/source.hh"
#include "conn/kernel_socket.hh"
#include "ssx/reserve.hh"
#include "trunks/service.hh"

namespace vmsgr::attach {

connector::connector(conn::budget& all, seastar::sharded<conn::carrier>& carriers, seastar::sharded<trunks::service>& t)
    : _all(all), _carrier(carriers.local()), _trunks(t.local()) {}

// The address that a peer will take for the program's: one of this host, bound in the daemon's own network namespace,
// where the kernel has judged whether the program may have address and port. None for any other, as users choose what
// addresses mean in namespaces of their own, and for loopback, which means another host on the other side.
base::address connector::true_source(int tcp, const base::address& peer) const noexcept {
    base::address from = conn::local_address(tcp);
    if (from.port == 0 || from.scope_id != 0 || base::netns_cookie(tcp) != _trunks.netns()) {
        return {};
    }
    if (from.unmapped().is_any()) {
        from.ip = base::source_towards(peer).ip;  // bound to a port alone: the kernel chooses when it connects
    }
    return !from.is_loopback() && base::is_own_address(from) ? from : base::address{};
}

// Over a trunk, or as the route says. 0, or an errno with which it has failed. What stays on this host needs no trunk.
int connector::find_way(conn::vm_conn::parts& p, const conn::connect_request& r) {
    const base::address to = p.peer.unmapped();
    if (!base::is_this_host(p.peer)) {
        const base::address from = true_source(p.tcp.get(), p.peer);
        std::unique_ptr<trunks::trunk_far> far;
        if (from.family == 0) {
            _trunks.count(trunk::refusal::own_source, to);
        } else if (auto session = _trunks.way_to(to, r.may_probe)) {
            far = trunks::trunk_far::open(session, p.conduit.capacity, from, p.peer);
        }
        if (!far && from.family != 0 && r.without == proto::without_trunk::wait && _trunks.may_come(to)) {
            far = trunks::trunk_far::awaiting(p.conduit.capacity, from, p.peer);
            _trunks.wait(*far);
        }
        if (far && r.without != proto::without_trunk::direct) {
            far->forbid_other_ways();
        }
        p.far = std::move(far);
        if (p.far) {
            return 0;
        }
        if (r.without != proto::without_trunk::direct) {
            _trunks.count(trunk::refusal::no_trunk, to);
            return ENETUNREACH;
        }
    }
    return _carrier.begin_connect(p.tcp.get(), p.peer, *p.place.owner->owner);
}

std::optional<conn::violation> connector::begin(conn::connect_request r) {
    const conn::user_ptr sender = r.place.owner->owner;
    std::optional<conn::violation> broken;
    try {
        broken = try_begin(r);
    } catch (const std::bad_alloc&) {
        ++_carrier.count().no_memory;  // what the program sent is closed: it sees its connection reset
    }
    if (r.bell) {  // not taken
        for (auto* fd : {&r.bell, &r.tcp, &r.arena}) {
            _carrier.let_go(*fd, *sender);
        }
    }
    return broken;
}

std::optional<conn::violation> connector::try_begin(conn::connect_request& r) {
    if (const char* why = base::not_tcp(r.tcp.get())) {
        return conn::violation{conn::fault::bad_descriptor, std::string("connect: ") + why};
    }
    if (const char* why = base::not_unix(r.bell.get(), SOCK_STREAM)) {
        return conn::violation{conn::fault::bad_descriptor, std::string("connect: ") + why};
    }
    if (_carrier.knows(r.id)) {
        return conn::violation{conn::fault::bad_job, "connect: a number that is in use"};
    }
    if (!base::is_memory(r.arena.get())) {
        return conn::violation{conn::fault::bad_memory, "connect: no memory"};
    }
    auto memory = _carrier.memory().join(r.arena.get(), r.slot, _all, r.place.owner);
    if (!memory && memory.error().errnum == ENOMEM) {
        ++_carrier.count().refused;
        return std::nullopt;  // there is nowhere to tell it: the program sees its connection reset
    }
    if (!memory) {
        return conn::violation{conn::fault::bad_memory, "connect: " + memory.error().text};
    }
    conn::vm_conn::parts p;
    p.conduit = memory->conduit();
    if (r.refusal == 0 && p.conduit.capacity > _carrier.settings().ring_bytes) {
        r.refusal = ENOBUFS;  // more than it has reserved
    }
    p.role = conn::conn_role::client;
    p.place = std::move(r.place);
    p.route = std::move(r.route);
    p.program_fd = r.program_fd;
    p.peer = r.peer;
    p.tcp = std::move(r.tcp);
    p.mark = r.mark;
    p.bell = std::move(r.bell);
    p.memory = std::move(*memory);
    p.arena = std::move(r.arena);
    if (r.refusal == 0 && ssx::is_short_of_memory()) {
        ++_carrier.count().no_memory;
        r.refusal = ENOBUFS;
    }
    if (r.by_trunk && r.refusal == 0) {
        r.refusal = find_way(p, r);
    }
    _carrier.connect(r.id, std::move(p), r.refusal);
    return std::nullopt;
}

}  // namespace vmsgr::attach
