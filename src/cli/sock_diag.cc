#include "cli/sock_diag.hh"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <string.h>
#include <sys/socket.h>

#include "base/unique_fd.hh"

namespace vmsgr::cli {

namespace {

constexpr size_t answer_bytes = 8192;
constexpr int answer_timeout_s = 2;

struct question {
    nlmsghdr head{};
    unix_diag_req body{};
};

// The peer in one answer; the kernel gives its number as an attribute.
std::optional<uint64_t> peer_in(const char* answer, size_t bytes) {
    nlmsghdr head;
    if (bytes < NLMSG_LENGTH(sizeof(unix_diag_msg))) {
        return std::nullopt;
    }
    memcpy(&head, answer, sizeof head);
    if (head.nlmsg_type != SOCK_DIAG_BY_FAMILY || head.nlmsg_len > bytes) {
        return std::nullopt;
    }
    size_t at = NLMSG_ALIGN(NLMSG_LENGTH(sizeof(unix_diag_msg)));
    while (at + sizeof(rtattr) <= head.nlmsg_len) {
        rtattr a;
        uint32_t peer = 0;
        memcpy(&a, answer + at, sizeof a);
        if (a.rta_len < sizeof a || at + a.rta_len > head.nlmsg_len) {
            return std::nullopt;
        }
        if (a.rta_type == UNIX_DIAG_PEER && a.rta_len >= RTA_LENGTH(sizeof peer)) {
            memcpy(&peer, answer + at + RTA_LENGTH(0), sizeof peer);
            return peer;
        }
        at += RTA_ALIGN(a.rta_len);
    }
    return std::nullopt;
}

}  // namespace

std::optional<uint64_t> peer_of_unix_socket(uint64_t inode) {
    const base::unique_fd diag(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
    const timeval patience{answer_timeout_s, 0};
    question q;
    q.head.nlmsg_len = sizeof q;
    q.head.nlmsg_type = SOCK_DIAG_BY_FAMILY;
    q.head.nlmsg_flags = NLM_F_REQUEST;
    q.body.sdiag_family = AF_UNIX;
    q.body.udiag_states = ~0u;
    q.body.udiag_ino = uint32_t(inode);
    q.body.udiag_show = UDIAG_SHOW_PEER;
    q.body.udiag_cookie[0] = q.body.udiag_cookie[1] = ~0u;  // INET_DIAG_NOCOOKIE: whichever has this inode
    sockaddr_nl kernel{};
    kernel.nl_family = AF_NETLINK;
    ::setsockopt(diag.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (!diag || ::sendto(diag.get(), &q, sizeof q, 0, reinterpret_cast<sockaddr*>(&kernel), sizeof kernel) < 0) {
        return std::nullopt;
    }
    char answer[answer_bytes];
    const ssize_t n = ::recv(diag.get(), answer, sizeof answer, 0);
    return n > 0 ? peer_in(answer, size_t(n)) : std::nullopt;
}

}  // namespace vmsgr::cli
