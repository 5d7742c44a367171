#include "base/source.hh"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include <cstddef>

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

bool is_own_address(const address& of) noexcept {
    const address a = of.unmapped();
    if (!a.names_one_host()) {
        return false;
    }
    const unsigned ip_bytes = a.family == AF_INET ? 4 : 16;
    struct {
        nlmsghdr head;
        rtmsg route;
        rtattr destination;
        std::array<uint8_t, 16> ip;
    } ask{};
    ask.head.nlmsg_len = NLMSG_LENGTH(sizeof(rtmsg)) + RTA_LENGTH(ip_bytes);
    ask.head.nlmsg_type = RTM_GETROUTE;
    ask.head.nlmsg_flags = NLM_F_REQUEST;
    ask.route.rtm_family = uint8_t(a.family);
    ask.route.rtm_dst_len = uint8_t(8 * ip_bytes);
    ask.destination.rta_type = RTA_DST;
    ask.destination.rta_len = uint16_t(RTA_LENGTH(ip_bytes));
    ask.ip = a.ip;
    // The kernel has answered when send returns.
    unique_fd netlink(sys::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    struct {
        nlmsghdr head;
        rtmsg route;
        std::array<std::byte, 1024> attributes;
    } answer;
    if (!netlink || sys::send(netlink.get(), &ask, ask.head.nlmsg_len, 0) < 0) {
        return false;
    }
    const ssize_t n = sys::recv(netlink.get(), &answer, sizeof answer, MSG_DONTWAIT);
    return n >= ssize_t(NLMSG_LENGTH(sizeof(rtmsg))) && answer.head.nlmsg_type == RTM_NEWROUTE &&
           answer.route.rtm_type == RTN_LOCAL;
}

bool is_this_host(const address& of) noexcept { return of.is_any() || of.is_loopback() || is_own_address(of); }

}  // namespace vmsgr::base
