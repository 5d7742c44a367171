#include "conn/tcp_count.hh"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstddef>

namespace vmsgr::conn {

namespace {

constexpr int tries_max = 1000;  // while bytes come and are acknowledged

// The kernel's numbers of states; <netinet/tcp.h> has them too, and not all of tcp_info.
enum state : uint8_t {
    established = 1,
    fin_wait1 = 4,
    fin_wait2 = 5,
    time_wait = 6,
    close_wait = 8,
    last_ack = 9,
    closing = 11,
};
constexpr unsigned bit(uint8_t s) noexcept { return 1U << s; }
constexpr unsigned ours_is_sent = bit(fin_wait1) | bit(fin_wait2) | bit(time_wait) | bit(last_ack) | bit(closing);
constexpr unsigned theirs_came = bit(time_wait) | bit(close_wait) | bit(last_ack) | bit(closing);
constexpr unsigned known = bit(established) | ours_is_sent | theirs_came;

bool read_info(int socket, tcp_info& info) noexcept {
    socklen_t len = sizeof info;
    return ::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
           len >= offsetof(tcp_info, tcpi_bytes_received) + sizeof info.tcpi_bytes_received;
}

bool same(const tcp_info& a, const tcp_info& b) noexcept {
    return a.tcpi_state == b.tcpi_state && a.tcpi_bytes_acked == b.tcpi_bytes_acked &&
           a.tcpi_bytes_received == b.tcpi_bytes_received;
}

}  // namespace

std::expected<tcp_count, const char*> count_tcp(int socket) noexcept {
    tcp_info before{}, after{};
    if (!read_info(socket, after)) {
        return std::unexpected("the kernel does not count");
    }
    for (int i = 0; i < tries_max; ++i) {
        before = after;
        int unsent = 0, unread = 0;
        if (::ioctl(socket, SIOCOUTQ, &unsent) != 0 || ::ioctl(socket, SIOCINQ, &unread) != 0 ||
            !read_info(socket, after)) {
            return std::unexpected("the kernel does not say what is queued");
        }
        if (!same(before, after)) {
            continue;
        }
        const unsigned s = bit(after.tcpi_state);
        if ((s & known) == 0) {
            return std::unexpected("it is not connected");
        }
        // An end of file is a byte in both counts; SIOCINQ leaves it out.
        const uint64_t acked = after.tcpi_bytes_acked, received = after.tcpi_bytes_received;
        return tcp_count{acked + unsigned(unsent) - unsigned((s & ours_is_sent) != 0),
                         received - unsigned(unread) - unsigned((s & theirs_came) != 0)};
    }
    return std::unexpected("its counters do not stand still");
}

}  // namespace vmsgr::conn
