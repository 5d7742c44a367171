#include "net/connector.hh"

#include <errno.h>
#include <sys/socket.h>

#include "net/kernel_socket.hh"

namespace vmsgr::net {

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
    _carrier.connect(std::move(p), r.refusal);
    return std::nullopt;
}

}  // namespace vmsgr::net
