#include "attach/connector.hh"

#include <errno.h>
#include <sys/socket.h>

#include "base/netns.hh"
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
        p.far = trunks::trunk_wire::open(session, p.conduit.capacity, from, p.peer);
    }
    if (p.far) {
        return 0;
    }
    return _carrier.alarm().guard([&] { return begin_connect(p.tcp.get(), p.peer); });
}

std::optional<violation> connector::begin(connect_request r) {
    if (const char* why = not_tcp(r.tcp.get())) {
        return violation{fault::bad_descriptor, std::string("connect: ") + why};
    }
    if (const char* why = not_doorbell(r.bell.get(), SOCK_STREAM)) {
        return violation{fault::bad_descriptor, std::string("connect: ") + why};
    }
    if (_carrier.knows(r.key)) {
        return violation{fault::bad_job, "connect: a key that is in use"};
    }
    // The layout's limit, not ours: memory that is merely too large is refused through itself.
    auto conduit = shm::open_conduit(r.memory.get(), shm::ring_bytes_max);
    if (!conduit) {
        return violation{fault::bad_memory, "connect: " + conduit.error().text};
    }
    if (r.refusal == 0 && conduit->capacity > _carrier.settings().ring_bytes) {
        r.refusal = ENOBUFS;
    }
    vm_conn::parts p;
    p.key = r.key;
    p.role = conn_role::client;
    p.place = std::move(r.place);
    p.route = std::move(r.route);
    p.program_fd = r.program_fd;
    p.peer = r.peer;
    p.tcp = std::move(r.tcp);
    p.bell = std::move(r.bell);
    p.memory = std::move(r.memory);
    p.page = std::move(r.page);
    p.conduit = std::move(*conduit);
    if (r.by_trunk && r.refusal == 0) {
        r.refusal = find_way(p, r.may_probe);
    }
    _carrier.connect(std::move(p), r.refusal);
    return std::nullopt;
}

}  // namespace vmsgr::net
