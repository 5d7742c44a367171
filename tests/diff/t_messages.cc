// sendmsg, recvmsg, sendmmsg, recvmmsg, recvfrom's and sendto's addresses, out-of-band data, error
// queue.
#include "sockdiff.hh"

#include <linux/errqueue.h>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif

namespace sockdiff {
namespace {

void out_fields(table& t) {
    t.pair("msg/recvfrom-address", [](role& r, int fd) {
        r.bytes(fd, 6);
        char b[8];
        endpoint e;
        memset(&e.ss, 0x55, sizeof e.ss);
        r.got("recvfrom", recvfrom(fd, b, 3, 0, e.sa(), &e.len), b);
        r.say("addrlen {} family untouched {}", e.len, e.ss.ss_family == 0x5555);
        r.got("recvfrom null address", recvfrom(fd, b, 3, 0, nullptr, &e.len), b);
        r.got("recvfrom nothing", recvfrom(fd, b, 3, MSG_DONTWAIT, e.sa(), &e.len), b);
    }, [](role& r, int fd) { r.put(fd, "abcdef"); });
    t.pair("msg/recvmsg-fields", [](role& r, int fd) {
        r.bytes(fd, 6);
        char b[64], control[64];
        endpoint e;
        iovec v{b, 4};
        msghdr m{};
        m.msg_name = e.sa();
        m.msg_namelen = e.len;
        m.msg_iov = &v;
        m.msg_iovlen = 1;
        m.msg_control = control;
        m.msg_controllen = sizeof control;
        m.msg_flags = 0x7777;
        r.got("recvmsg", recvmsg(fd, &m, 0), b);
        r.say("namelen {} controllen {} flags {:#x}", m.msg_namelen, m.msg_controllen, m.msg_flags);
        m.msg_controllen = sizeof control;
        m.msg_namelen = sizeof e.ss;
        r.got("recvmsg peek", recvmsg(fd, &m, MSG_PEEK), b);
        r.say("namelen {} controllen {} flags {:#x}", m.msg_namelen, m.msg_controllen, m.msg_flags);
        r.ret("recvmsg cloexec", recvmsg(fd, &m, MSG_CMSG_CLOEXEC));
        r.say("flags {:#x}", m.msg_flags);
        m.msg_flags = 0;
        r.ret("recvmsg nothing", recvmsg(fd, &m, MSG_DONTWAIT));
    }, [](role& r, int fd) { r.put(fd, "abcdef"); });
    t.pair("msg/recvmsg-fields-at-end", [](role& r, int fd) {
        r.until(fd, POLLRDHUP);
        char b[4], control[64];
        endpoint e;
        iovec v{b, 4};
        msghdr m{};
        m.msg_name = e.sa();
        m.msg_namelen = e.len;
        m.msg_iov = &v;
        m.msg_iovlen = 1;
        m.msg_control = control;
        m.msg_controllen = sizeof control;
        r.ret("recvmsg", recvmsg(fd, &m, 0));
        r.say("namelen {} controllen {} flags {:#x}", m.msg_namelen, m.msg_controllen, m.msg_flags);
    }, [](role&, int fd) { shutdown(fd, SHUT_WR); });
    t.pair("msg/sendto-address", [](role& r, int fd) {
        auto a = r.loopback(9);
        r.ret("another address", sendto(fd, "ab", 2, MSG_NOSIGNAL, a.sa(), a.len));
        auto p = peer_of(fd);
        r.ret("the peer", sendto(fd, "cd", 2, MSG_NOSIGNAL, p.sa(), p.len));
        r.ret("null and length", sendto(fd, "ef", 2, MSG_NOSIGNAL, nullptr, 16));
        msghdr m{};
        char b[] = "gh";
        iovec v{b, 2};
        m.msg_name = a.sa();
        m.msg_namelen = a.len;
        m.msg_iov = &v;
        m.msg_iovlen = 1;
        r.ret("sendmsg", sendmsg(fd, &m, MSG_NOSIGNAL));
        m.msg_namelen = 3;
        r.ret("sendmsg short name", sendmsg(fd, &m, MSG_NOSIGNAL));
        r.ret("too long", sendto(fd, "ij", 2, MSG_NOSIGNAL, a.sa(), 1000));
        shutdown(fd, SHUT_WR);
    }, [](role& r, int fd) { r.get("get", fd, 64); });
    t.pair("msg/sendmsg-control", [](role& r, int fd) {
        char b[] = "x";
        iovec v{b, 1};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
        msghdr m{};
        m.msg_iov = &v;
        m.msg_iovlen = 1;
        m.msg_control = control;
        m.msg_controllen = sizeof control;
        auto c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        r.ret("rights over TCP", sendmsg(fd, &m, MSG_NOSIGNAL));
        c->cmsg_type = 0x7fff;
        r.ret("unknown control", sendmsg(fd, &m, MSG_NOSIGNAL));
        c->cmsg_len = 1;
        r.ret("broken control", sendmsg(fd, &m, MSG_NOSIGNAL));
        shutdown(fd, SHUT_WR);
    }, [](role& r, int fd) { r.get("get", fd, 8); });
    t.pair("msg/sendmmsg-recvmmsg", [](role& r, int fd) {
        char b[3][5] = {"abcd", "efgh", "ijkl"};
        iovec v[3];
        mmsghdr m[3]{};
        for (int i = 0; i < 3; i++) {
            v[i] = {b[i], 4};
            m[i].msg_hdr.msg_iov = &v[i];
            m[i].msg_hdr.msg_iovlen = 1;
        }
        r.ret("sendmmsg", sendmmsg(fd, m, 3, MSG_NOSIGNAL));
        r.say("lengths {} {} {}", m[0].msg_len, m[1].msg_len, m[2].msg_len);
        r.ret("sendmmsg none", sendmmsg(fd, m, 0, MSG_NOSIGNAL));
        r.meet();
        r.bytes(fd, 10);
        for (auto& one : m)
            one.msg_len = 99;
        r.ret("recvmmsg", recvmmsg(fd, m, 3, MSG_DONTWAIT, nullptr));
        r.say("lengths {} {} {}", m[0].msg_len, m[1].msg_len, m[2].msg_len);
        r.say("{} {} {}", shown({b[0], 4}), shown({b[1], 4}), shown({b[2], 2}));
        r.ret("recvmmsg nothing", recvmmsg(fd, m, 3, MSG_DONTWAIT, nullptr));
    }, [](role& r, int fd) {
        r.get("get", fd, 12);
        r.put(fd, "0123456789");
        r.meet();
    });
    t.pair("msg/recvmmsg-waitforone", [](role& r, int fd) {
        char b[3][4];
        iovec v[3];
        mmsghdr m[3]{};
        for (int i = 0; i < 3; i++) {
            v[i] = {b[i], 4};
            m[i].msg_hdr.msg_iov = &v[i];
            m[i].msg_hdr.msg_iovlen = 1;
        }
        r.meet();
        r.ret("waitforone", recvmmsg(fd, m, 3, MSG_WAITFORONE, nullptr));
        r.say("length {}", m[0].msg_len);
        r.meet();
        r.until(fd, POLLRDHUP);
        r.ret("at end", recvmmsg(fd, m, 3, 0, nullptr));
    }, [](role& r, int fd) {
        r.meet();
        nap(settle_ms);
        r.put(fd, "abc");
        r.meet();
        shutdown(fd, SHUT_WR);
    });
    t.pair("msg/sendmmsg-after-shutdown", [](role& r, int fd) {
        shutdown(fd, SHUT_WR);
        char b[] = "x";
        iovec v{b, 1};
        mmsghdr m{};
        m.msg_hdr.msg_iov = &v;
        m.msg_hdr.msg_iovlen = 1;
        r.ret("sendmmsg", sendmmsg(fd, &m, 1, MSG_NOSIGNAL));
    }, [](role&, int) {});
    t.pair("msg/vector-send-whole-or-part", [](role& r, int fd) {
        std::string data = pattern(200000, 2);
        std::vector<iovec> v;
        for (size_t at = 0, step = 1; at < data.size(); at += step, step = step * 2 + 1) {
            v.push_back({data.data() + at, std::min(step, data.size() - at)});
        }
        msghdr m{};
        m.msg_iov = v.data();
        m.msg_iovlen = v.size();
        r.ret("sendmsg, blocking, is whole", sendmsg(fd, &m, MSG_NOSIGNAL));
    }, [](role& r, int fd) { r.get("get", fd, 200000); });
    t.pair("msg/unknown-flags", [](role& r, int fd) {
        r.bytes(fd, 3);
        r.ret("recv errqueue", recv(fd, nullptr, 0, MSG_ERRQUEUE));
        r.rd("recv errqueue", fd, 4, MSG_ERRQUEUE | MSG_DONTWAIT);
        r.wr("send dontroute", fd, "a", MSG_DONTROUTE | MSG_NOSIGNAL);
        r.wr("send confirm", fd, "b", MSG_CONFIRM | MSG_NOSIGNAL);
        r.wr("send eor", fd, "c", MSG_EOR | MSG_NOSIGNAL);
        r.wr("send probe", fd, "d", MSG_PROXY | MSG_NOSIGNAL);
        r.rd("recv cloexec", fd, 4, MSG_CMSG_CLOEXEC);
    }, [](role& r, int fd) {
        r.put(fd, "abc");
        r.get("get", fd, 3);
    });
    t.pair("msg/zerocopy", [](role& r, int fd) {
        int one = 1;
        r.ret("SO_ZEROCOPY", setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof one));
        static std::string data = pattern(20000, 4);
        r.ret("send", send(fd, data.data(), data.size(), MSG_ZEROCOPY | MSG_NOSIGNAL));
        r.until(fd, POLLERR);
        char control[256];
        msghdr m{};
        m.msg_control = control;
        m.msg_controllen = sizeof control;
        r.ret("notification", recvmsg(fd, &m, MSG_ERRQUEUE));
        r.say("flags {:#x} control {}", m.msg_flags, m.msg_controllen > 0);
    }, [](role& r, int fd) { r.get("get", fd, 20000); });
    t.pair("msg/zerocopy-flag-without-option", [](role& r, int fd) {
        r.wr("send", fd, "plain", MSG_ZEROCOPY | MSG_NOSIGNAL);
    }, [](role& r, int fd) { r.get("get", fd, 5); });
}

}  // namespace

void add_messages(table& t) { out_fields(t); }

}  // namespace sockdiff
