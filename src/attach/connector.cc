#include "attach/connector.hh"

#include <errno.h>
#include <sys/socket.h>

#include "base/netns.hh"
#include "base/sockets.hh"
#include "base/source.hh"
#include "conn/kernel_socket.hh"
#include "trunks/service.hh"

namespace vmsgr::net {

connector::connector(seastar::sharded<carrier>& carriers, seastar::sharded<trunks::service>& t)
    : _carrier(carriers.local()), _trunks(t.local()) {}

// Over a trunk, or else by TCP as if there were none. 0, or an errno with which it has failed.
int connector::find_way(vm_conn::parts& p, bool may_probe) {
    base::address from = local_address(p.tcp.get());
    if (from.port != 0 && from.is_any() && base::netns_cookie(p.tcp.get()) == _trunks.netns()) {
        from.ip = base::source_towards(p.peer).ip;  // bound to a port alone: the kernel chooses when it connects
    }
    auto session = from.port != 0 && !from.is_any() ? _trunks.way_to(p.peer.unmapped(), may_probe) : nullptr;
    if (session) {
        p.far = trunks::trunk_far::open(session, p.conduit.capacity, from, p.peer);
    }
    if (p.far) {
        return 0;
    }
    return _carrier.alarm().guard([&] { return begin_connect(p.tcp.get(), p.peer); });
}

std::optional<violation> connector::begin(connect_request r) {
    auto broken = try_begin(r);
    if (broken) {
        // Whatever was sent instead of what it should be: its last close may wait.
        _carrier.alarm().guard([&r] {
            for (auto* fd : {&r.bell, &r.tcp, &r.arena}) {
                fd->reset();
            }
            return true;
        });
    }
    return broken;
}

std::optional<violation> connector::try_begin(connect_request& r) {
    if (const char* why = base::not_tcp(r.tcp.get())) {
        return violation{fault::bad_descriptor, std::string("connect: ") + why};
    }
    if (const char* why = base::not_unix(r.bell.get(), SOCK_STREAM)) {
        return violation{fault::bad_descriptor, std::string("connect: ") + why};
    }
    if (_carrier.knows(r.id)) {
        return violation{fault::bad_job, "connect: a number that is in use"};
    }
    auto memory = _carrier.memory().join(std::move(r.arena), r.slot);
    if (!memory) {
        return violation{fault::bad_memory, "connect: " + memory.error().text};
    }
    vm_conn::parts p;
    p.conduit = memory->conduit();
    if (r.refusal == 0 && p.conduit.capacity > _carrier.settings().ring_bytes) {
        r.refusal = ENOBUFS;
    }
    p.role = conn_role::client;
    p.place = std::move(r.place);
    p.route = std::move(r.route);
    p.program_fd = r.program_fd;
    p.peer = r.peer;
    p.tcp = std::move(r.tcp);
    p.bell = std::move(r.bell);
    p.memory = std::move(*memory);
    if (r.by_trunk && r.refusal == 0) {
        r.refusal = find_way(p, r.may_probe);
    }
    _carrier.connect(r.id, std::move(p), r.refusal);
    return std::nullopt;
}

}  // namespace vmsgr::net
