#include "base/source.hh"

#include "base/sys.hh"
#include "base/unique_fd.hh"

namespace vmsgr::base {

address source_towards(const address& peer) noexcept {
    unique_fd probe(sys::socket(peer.family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_storage ss{};
    auto* sa = reinterpret_cast<sockaddr*>(&ss);
    socklen_t size = to_sockaddr(peer, ss), len = sizeof ss;
    if (!probe || sys::connect(probe.get(), sa, size) != 0 || ::getsockname(probe.get(), sa, &len) != 0) {
        return {};
    }
    address source = from_sockaddr(sa, len).value_or(address{});
    source.port = 0;
    return source;
}

}  // namespace vmsgr::base
