#include "base/source.hh"

#include "base/names.hh"
#include "base/sys.hh"
#include "base/unique_fd.hh"

namespace vmsgr::base {

address source_towards(const address& peer) noexcept {
    unique_fd probe(sys::socket(peer.family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_storage ss{};
    const socklen_t len = to_sockaddr(peer, ss);
    if (!probe || sys::connect(probe.get(), &ss, len) != 0) {
        return {};
    }
    address source = local_name(probe.get());
    source.port = 0;
    return source;
}

}  // namespace vmsgr::base
