// What a socket answers in states in which the call makes no sense, and connects that stay pending.
#include "sockdiff.hh"

#include <array>

namespace sockdiff {
namespace {

void nobody(role&) {}

void unconnected(table& t) {
    // name, what is done before
    struct state {
        const char* name;
        void (*prepare)(role&, int);
    };
    for (auto s : {state{"fresh", [](role&, int) {}},
                   state{"bound",
                         [](role& r, int fd) {
        auto a = r.loopback();
        bind(fd, a.sa(), a.len);
    }},
                   state{"listening", [](role& r, int fd) {
        auto a = r.loopback();
        bind(fd, a.sa(), a.len);
        listen(fd, 4);
    }}}) {
        std::string p = std::string("state/") + s.name;
        t.add(p + "-io", nobody, [=](role& r) {
            int fd = r.sock();
            s.prepare(r, fd);
            catch_signal(SIGPIPE);
            char b[8];
            iovec v{b, sizeof b};
            msghdr m{};
            m.msg_iov = &v;
            m.msg_iovlen = 1;
            r.ret("read", read(fd, b, 8));
            r.ret("recv", recv(fd, b, 8, 0));
            r.ret("recv peek", recv(fd, b, 8, MSG_PEEK));
            r.ret("recv dontwait", recv(fd, b, 8, MSG_DONTWAIT));
            r.ret("recvmsg", recvmsg(fd, &m, 0));
            r.ret("readv", readv(fd, &v, 1));
            r.ret("write", write(fd, "abc", 3));
            r.say("SIGPIPE {}", signals_seen(SIGPIPE));
            r.ret("send nosignal", send(fd, "abc", 3, MSG_NOSIGNAL));
            r.ret("sendmsg nosignal", sendmsg(fd, &m, MSG_NOSIGNAL));
            r.say("SIGPIPE {}", signals_seen(SIGPIPE));
            r.ret("writev", writev(fd, &v, 1));
            r.say("SIGPIPE {}", signals_seen(SIGPIPE));
            r.say("SO_ERROR {}", r.so_error(fd));
        });
        t.add(p + "-calls", nobody, [=](role& r) {
            int fd = r.sock();
            s.prepare(r, fd);
            endpoint e;
            r.okay("getpeername", getpeername(fd, e.sa(), &e.len));
            r.okay("getsockname", getsockname(fd, e.sa(), &e.len));
            r.say("name {} len {} port {}", e.host(), e.len, e.port() != 0);
            r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP | POLLPRI);
            int n = 77;
            r.ret("FIONREAD", ioctl(fd, FIONREAD, &n));
            r.say("FIONREAD value {}", n);
            fcntl(fd, F_SETFL, O_NONBLOCK);
            r.ret("accept", accept(fd, nullptr, nullptr));
            for (int how : {0 + SHUT_RD, 0 + SHUT_WR, 0 + SHUT_RDWR, 7})
                r.ret("shutdown", shutdown(fd, how));
        });
        t.add(p + "-zero-length", nobody, [=](role& r) {
            int fd = r.sock();
            s.prepare(r, fd);
            char b[1];
            catch_signal(SIGPIPE);
            r.ret("read 0", read(fd, b, 0));
            r.ret("recv 0", recv(fd, b, 0, 0));
            r.ret("write 0", write(fd, b, 0));
            r.say("SIGPIPE {}", signals_seen(SIGPIPE));
            r.ret("send 0", send(fd, b, 0, MSG_NOSIGNAL));
        });
        t.add(p + "-connect-to-self-family", nobody, [=](role& r) {
            int fd = r.sock();
            s.prepare(r, fd);
            sockaddr_un un{};
            un.sun_family = AF_UNIX;
            r.ret("AF_UNIX", connect(fd, reinterpret_cast<sockaddr*>(&un), sizeof un));
            auto a = r.loopback(1);
            r.ret("short", connect(fd, a.sa(), 4));
            r.ret("zero", connect(fd, a.sa(), 0));
            r.ret("null", connect(fd, nullptr, a.len));
            r.ret("beyond", connect(fd, a.sa(), sizeof(sockaddr_storage) + 1));
            sockaddr none{};
            none.sa_family = AF_UNSPEC;
            if (strcmp(s.name, "listening"))
                r.ret("AF_UNSPEC", connect(fd, &none, sizeof none));
        });
        t.add(p + "-epoll", nobody, [=](role& r) {
            int fd = r.sock(), ep = epoll_create1(0);
            s.prepare(r, fd);
            r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 3);
            r.ep_now("level", ep);
            r.ep_ctl("mod", ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 4);
            r.ep_now("edge", ep);
            r.ep_now("edge again", ep);
        });
    }
    t.add("state/connect-on-listener", nobody, [](role& r) {
        int fd = r.listening(), other = r.listening();
        auto a = name_of(other);
        r.ret("connect", connect(fd, a.sa(), a.len));
        r.say("accepting {}", r.opt(fd, SOL_SOCKET, SO_ACCEPTCONN));
    });
    t.pair("state/listen-on-connected", [](role& r, int fd) {
        r.ret("listen", listen(fd, 4));
        r.ret("accept", accept(fd, nullptr, nullptr));
        auto a = r.loopback();
        r.ret("bind", bind(fd, a.sa(), a.len));
        r.put(fd, "still there");
    }, [](role& r, int fd) { r.get("get", fd, 11); });
    t.add("state/sigpipe-kills", nobody, [](role& r) {
        child_process c([&] {
            int fd = r.sock();
            [[maybe_unused]] long n = write(fd, "x", 1);
            r.say("not reached");
        });
        r.say("child: {}", c.wait());
    });
    t.add("state/shutdown-of-a-reset-nobody-was-told-of", [](role& r) {
        int fd = r.serve(), c = r.take(fd);
        linger l{1, 0};
        setsockopt(c, SOL_SOCKET, SO_LINGER, &l, sizeof l);
        close(c);
        r.meet();
    }, [](role& r) {
        auto a = r.loopback(int(r.hear_num()));
        int fd = r.sock(SOCK_NONBLOCK);
        r.ret("connect", connect(fd, a.sa(), a.len));
        r.until(fd, POLLHUP);
        r.say("SO_ERROR {}", r.so_error(fd));
        r.ret("shutdown", shutdown(fd, SHUT_RDWR));
        r.ret("connect", connect(fd, a.sa(), a.len));
        r.ret("connect again", connect(fd, a.sa(), a.len));
        r.rd("recv", fd, 4);
        r.wr("send", fd, "x");
        r.meet();
    });
    t.pair("state/disconnect-by-unspec", [](role& r, int fd) {
        sockaddr none{};
        none.sa_family = AF_UNSPEC;
        r.ret("AF_UNSPEC", connect(fd, &none, sizeof none));
        r.rd("recv", fd, 4);
        r.wr("send", fd, "x");
        r.ret("peer", getpeername(fd, &none, std::array<socklen_t, 1>{sizeof none}.data()));
        r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
    }, [](role& r, int fd) {
        r.until(fd, POLLERR);
        r.rd("recv", fd, 4);
    });
}

// A listener whose queue is full keeps further connects pending.
int full_listener(role& r) {
    int fd = r.serve(0);
    r.meet();
    return fd;
}
int pending(role& r, int& filler, int flags) {
    int port = r.hear_num();
    filler = r.dial(port);
    r.meet();
    int fd = r.sock(flags);
    r.tell_num(port);
    return fd;
}

void pending_connects(table& t) {
    t.add("pending/already", [](role& r) {
        int fd = full_listener(r);
        r.hear_num();
        r.meet();
        r.take(fd);
        int c = r.take(fd);
        r.get("get", c, 2);
        r.meet();
    }, [](role& r) {
        int filler, fd = pending(r, filler, SOCK_NONBLOCK);
        auto a = peer_of(filler);
        r.ret("connect", connect(fd, a.sa(), a.len));
        r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
        r.ret("connect again", connect(fd, a.sa(), a.len));
        r.ret("and again", connect(fd, a.sa(), a.len));
        r.say("SO_ERROR {}", r.so_error(fd));
        r.wr("send", fd, "x");
        r.rd("recv", fd, 1);
        endpoint e;
        r.okay("getpeername", getpeername(fd, e.sa(), &e.len));
        r.meet();
        r.until(fd, POLLOUT, 4000);
        r.ret("connect", connect(fd, a.sa(), a.len));
        r.ret("connect", connect(fd, a.sa(), a.len));
        r.put(fd, "ok");
        r.meet();
    }).timeout(8000);
    t.add("pending/blocking-timeout", [](role& r) {
        full_listener(r);
        r.hear_num();
        r.meet();
    }, [](role& r) {
        int filler, fd = pending(r, filler, 0);
        auto a = peer_of(filler);
        timeval tv{0, 100000};
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
        double from = now_s();
        r.ret("connect", connect(fd, a.sa(), a.len));
        r.yes("after a tenth of a second", now_s() - from > 0.08);
        r.ret("connect again", connect(fd, a.sa(), a.len));
        r.meet();
    });
    t.add("pending/interrupted", [](role& r) {
        int fd = full_listener(r);
        r.hear_num();
        r.meet();
        r.take(fd);
        r.take(fd);
        r.meet();
    }, [](role& r) {
        int filler, fd = pending(r, filler, 0);
        auto a = peer_of(filler);
        {
            ticking tick(20, false);
            r.ret("connect", connect(fd, a.sa(), a.len));
        }
        r.poll_now("poll", fd, POLLIN | POLLOUT);
        r.meet();
        r.until(fd, POLLOUT, 4000);
        r.say("SO_ERROR {}", r.so_error(fd));
        r.ret("connect", connect(fd, a.sa(), a.len));
        r.ret("connect", connect(fd, a.sa(), a.len));
        r.meet();
    }).timeout(8000);
    t.add("pending/closed", [](role& r) {
        int fd = full_listener(r);
        r.hear_num();
        r.meet();
        r.take(fd);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        nap(settle_ms);
        r.ret("accept", accept(fd, nullptr, nullptr));
        r.meet();
    }, [](role& r) {
        int filler, fd = pending(r, filler, SOCK_NONBLOCK);
        auto a = peer_of(filler);
        connect(fd, a.sa(), a.len);
        r.okay("close", close(fd));
        r.meet();
        r.meet();
    });
    t.add("pending/shutdown", [](role& r) {
        full_listener(r);
        r.hear_num();
        r.meet();
    }, [](role& r) {
        int filler, fd = pending(r, filler, SOCK_NONBLOCK);
        auto a = peer_of(filler);
        connect(fd, a.sa(), a.len);
        r.ret("shutdown", shutdown(fd, SHUT_RDWR));
        r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
        r.rd("recv", fd, 1);
        r.meet();
    });
}

}  // namespace

void add_connect_states(table& t) {
    unconnected(t);
    pending_connects(t);
}

}  // namespace sockdiff
