// What is not a TCP connection and must be left alone: unix sockets, pipes, UDP, eventfd, files,
// name look-ups.
#include "sockdiff.hh"

#include <netdb.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

namespace sockdiff {
namespace {

void nobody(role&) {}

void same_calls(role& r, int a, int b) {
    char buf[32];
    r.wr("send", a, "hello");
    r.poll_is("poll", b, POLLIN | POLLOUT | POLLRDHUP, POLLIN);
    r.rd("peek", b, 32, MSG_PEEK);
    int n = -1;
    r.ret("FIONREAD", ioctl(b, FIONREAD, &n));
    r.say("{}", n);
    r.got("read", read(b, buf, 32), buf);
    r.rd("dontwait", b, 32, MSG_DONTWAIT);
    int d = dup(b);
    fcntl(d, F_SETFL, O_NONBLOCK);
    r.ret("read", read(b, buf, 32));
    close(d);
    r.say("domain {} type {}", r.opt(a, SOL_SOCKET, SO_DOMAIN), r.opt(a, SOL_SOCKET, SO_TYPE));
    int one = 1;
    r.ret("TCP_NODELAY", setsockopt(a, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
    r.ret("shutdown", shutdown(a, SHUT_WR));
    r.poll_now("poll", b, POLLIN | POLLOUT | POLLRDHUP);
    close(a);
    r.poll_now("poll", b, POLLIN | POLLOUT | POLLRDHUP);
    r.wr("send", b, "x");
}

void local(table& t) {
    for (auto [name, type] :
         {std::pair{"stream", 0 + SOCK_STREAM}, {"dgram", 0 + SOCK_DGRAM}, {"seqpacket", 0 + SOCK_SEQPACKET}}) {
        t.add(std::string("other/socketpair-") + name, [=](role& r) {
            int s[2];
            r.ret("socketpair", socketpair(AF_UNIX, type, 0, s));
            same_calls(r, s[0], s[1]);
        }, nobody);
    }
    t.add("other/unix-listener", [](role& r) {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        sockaddr_un un{};
        un.sun_family = AF_UNIX;
        r.okay("autobind", bind(fd, reinterpret_cast<sockaddr*>(&un), sizeof(sa_family_t)));
        r.okay("listen", listen(fd, 4));
        socklen_t n = sizeof un;
        r.okay("getsockname", getsockname(fd, reinterpret_cast<sockaddr*>(&un), &n));
        r.say("abstract {} len {}", un.sun_path[0] == 0, n);
        r.tell(std::string_view(un.sun_path, n - sizeof(sa_family_t)));
        int c = r.take(fd);
        r.get("get", c, 4);
        ucred cred{};
        n = sizeof cred;
        r.ret("SO_PEERCRED", getsockopt(c, SOL_SOCKET, SO_PEERCRED, &cred, &n));
        r.say("pid known {}", cred.pid > 0);
        r.put(c, "pong");
        r.meet();
    }, [](role& r) {
        std::string name = r.hear();
        sockaddr_un un{};
        un.sun_family = AF_UNIX;
        memcpy(un.sun_path, name.data(), name.size());
        auto sa = reinterpret_cast<sockaddr*>(&un);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        r.ret("connect", connect(fd, sa, static_cast<socklen_t>(sizeof(sa_family_t) + name.size())));
        r.wr("send", fd, "ping");
        r.get("get", fd, 4);
        r.meet();
    });
    t.add("other/pipe", [](role& r) {
        int p[2];
        r.ret("pipe2", pipe2(p, O_NONBLOCK));
        char b[16];
        r.ret("read empty", read(p[0], b, 16));
        r.ret("write", write(p[1], "abc", 3));
        int n = 0;
        ioctl(p[0], FIONREAD, &n);
        r.say("FIONREAD {}", n);
        r.poll_now("poll", p[0], POLLIN | POLLOUT);
        iovec v{b, 16};
        r.got("readv", readv(p[0], &v, 1), b);
        r.ret("recv", recv(p[0], b, 16, 0));
        r.ret("shutdown", shutdown(p[0], SHUT_RD));
        r.ret("getsockname", getsockname(p[0], nullptr, nullptr));
        close(p[1]);
        r.poll_now("poll", p[0], POLLIN | POLLOUT);
        r.ret("read", read(p[0], b, 16));
        catch_signal(SIGPIPE);
        int q[2];
        if (pipe(q) < 0)
            return;
        close(q[0]);
        r.ret("write broken", write(q[1], "x", 1));
        r.say("SIGPIPE {}", signals_seen(SIGPIPE));
    }, nobody);
    t.add("other/eventfd-timerfd-signalfd", [](role& r) {
        int e = eventfd(0, EFD_NONBLOCK);
        uint64_t v = 0;
        r.ret("read", read(e, &v, 8));
        v = 5;
        r.ret("write", write(e, &v, 8));
        r.ret("read", read(e, &v, 8));
        r.say("{}", v);
        int tm = timerfd_create(CLOCK_MONOTONIC, 0);
        itimerspec ts{{0, 0}, {0, 1000000}};
        timerfd_settime(tm, 0, &ts, nullptr);
        r.ret("read timer", read(tm, &v, 8));
        sigset_t s;
        sigemptyset(&s);
        sigaddset(&s, SIGUSR1);
        sigprocmask(SIG_BLOCK, &s, nullptr);
        int sf = signalfd(-1, &s, 0);
        kill(getpid(), SIGUSR1);
        signalfd_siginfo i;
        r.ret("read signal", read(sf, &i, sizeof i));
        r.say("signal {}", i.ssi_signo == SIGUSR1);
        int ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, e, EPOLLIN | EPOLLET, 1);
        v = 1;
        write(e, &v, 8);
        r.ep_now("events", ep);
    }, nobody);
    t.add("other/files", [](role& r) {
        int fd = open("/proc/self/exe", O_RDONLY);
        char b[4];
        r.got("read", read(fd, b, 4), b);
        r.got("pread", pread(fd, b, 4, 0), b);
        r.say("lseek {}", lseek(fd, 0, SEEK_CUR));
        r.ret("recv", recv(fd, b, 4, 0));
        r.ret("send", send(fd, b, 4, 0));
        r.ret("closed", read(777, b, 4));
        r.ret("negative", read(-1, b, 4));
        r.ret("write only-read", write(fd, b, 4));
        r.ret("close", close(fd));
        r.ret("close again", close(fd));
        r.ret("close negative", close(-1));
        int nd = open("/dev/null", O_RDWR);
        r.ret("sendmsg", sendmsg(nd, std::vector<msghdr>(1).data(), 0));
        r.ret("connect", connect(nd, r.loopback(1).sa(), r.loopback(1).len));
        r.ret("listen", listen(nd, 1));
        r.ret("FIONBIO", ioctl(nd, FIONBIO, std::vector<int>{1}.data()));
        r.say("nonblock {}", !!(fcntl(nd, F_GETFL) & O_NONBLOCK));
    }, nobody);
    t.add("other/errno-is-preserved", [](role& r) {
        int p[2];
        if (pipe(p) < 0)
            return;
        errno = 4321;
        write(p[1], "x", 1);
        r.say("write {}", errno);
        char b;
        read(p[0], &b, 1);
        r.say("read {}", errno);
        int fd = socket(r.family, SOCK_STREAM, 0);
        r.say("socket {}", errno);
        auto a = r.loopback();
        bind(fd, a.sa(), a.len);
        r.say("bind {}", errno);
        listen(fd, 4);
        r.say("listen {}", errno);
        auto me = name_of(fd);
        r.say("getsockname {}", errno);
        int c = r.sock();
        connect(c, me.sa(), me.len);
        r.say("connect {}", errno);
        int s = accept(fd, nullptr, nullptr);
        r.say("accept {}", errno);
        send(c, "x", 1, 0);
        r.say("send {}", errno);
        recv(s, &b, 1, 0);
        r.say("recv {}", errno);
        close(c);
        r.say("close {}", errno);
    }, nobody);
}

void udp(table& t) {
    t.add("other/udp", [](role& r) {
        int fd = socket(r.family, SOCK_DGRAM, 0);
        auto a = r.loopback();
        r.okay("bind", bind(fd, a.sa(), a.len));
        r.tell_num(name_of(fd).port());
        char b[32];
        endpoint from;
        r.got("recvfrom", recvfrom(fd, b, 32, 0, from.sa(), &from.len), b);
        r.say("from {} len {}", from.host(), from.len);
        r.got("truncated", recvfrom(fd, b, 3, MSG_TRUNC, nullptr, nullptr), "...");
        r.ret("sendto", sendto(fd, "back", 4, 0, from.sa(), from.len));
        r.rd("dontwait", fd, 8, MSG_DONTWAIT);
        r.ret("listen", listen(fd, 4));
        r.meet();
    }, [](role& r) {
        int fd = socket(r.family, SOCK_DGRAM, 0);
        auto a = r.loopback(r.hear_num());
        r.ret("sendto", sendto(fd, "datagram", 8, 0, a.sa(), a.len));
        r.ret("connect", connect(fd, a.sa(), a.len));
        r.ret("send", send(fd, "abc", 3, 0));
        r.rd("recv", fd, 32);
        r.meet();
    });
    t.add("other/udp-refused", [](role& r) {
        int fd = socket(r.family, SOCK_DGRAM, 0);
        auto a = r.loopback();
        bind(fd, a.sa(), a.len);
        int port = name_of(fd).port();
        close(fd);
        int c = socket(r.family, SOCK_DGRAM, 0);
        auto to = r.loopback(port);
        r.ret("connect", connect(c, to.sa(), to.len));
        r.ret("send", send(c, "x", 1, 0));
        r.until(c, POLLERR);
        r.rd("recv", c, 4, MSG_DONTWAIT);
    }, nobody);
    t.add("other/udp-and-tcp-on-one-port", [](role& r) {
        int tcp = r.listening();
        int fd = socket(r.family, SOCK_DGRAM, 0);
        auto a = name_of(tcp);
        r.okay("bind", bind(fd, a.sa(), a.len));
        r.tell_num(a.port());
        int c = r.take(tcp);
        r.get("stream", c, 3);
        r.rd("datagram", fd, 16);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num(), fd = r.dial(port);
        r.put(fd, "tcp");
        int u = socket(r.family, SOCK_DGRAM, 0);
        auto a = r.loopback(port);
        r.ret("sendto", sendto(u, "udp", 3, 0, a.sa(), a.len));
        r.meet();
    });
    t.add("other/getaddrinfo-localhost", [](role& r) {
        int port = name_of(r.listening()).port();
        r.tell_num(port);
        r.okay("accept", accept(r.listen_fd, nullptr, nullptr));
        r.meet();
    }, [](role& r) {
        addrinfo hints{}, *list = nullptr;
        hints.ai_family = r.family;
        hints.ai_socktype = SOCK_STREAM;
        hints.ai_flags = AI_NUMERICHOST;
        r.ret("getaddrinfo", getaddrinfo(r.family == AF_INET ? "127.0.0.1" : "::1",
                                         std::to_string(r.hear_num()).c_str(), &hints, &list));
        int fd = socket(list->ai_family, list->ai_socktype, list->ai_protocol);
        r.ret("connect", connect(fd, list->ai_addr, list->ai_addrlen));
        char host[64], port[16];
        r.ret("getnameinfo", getnameinfo(list->ai_addr, list->ai_addrlen, host, sizeof host, port, sizeof port,
                                         NI_NUMERICHOST | NI_NUMERICSERV));
        r.say("{}", host);
        freeaddrinfo(list);
        r.meet();
    });
}

}  // namespace

void add_others(table& t) {
    local(t);
    udp(t);
}

}  // namespace sockdiff
