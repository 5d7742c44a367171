// connect(): refused, in progress, polled by calling it again, addresses on both sides.
#include "sockdiff.hh"

namespace sockdiff {
namespace {

// A port that nobody else gets, and where nobody listens: bound, not listening.
void closed_port(role& r) {
    int fd = r.bound();
    r.tell_num(name_of(fd).port());
    r.meet();
}

long dial_again(role& r, const char* what, int fd, int port) {
    auto a = r.loopback(port);
    return r.ret(what, connect(fd, a.sa(), a.len));
}

void refused(table& t) {
    t.add("connect/refused-blocking", closed_port, [](role& r) {
        int port = r.hear_num(), fd = r.sock();
        for (auto what : {"first", "second", "third"})
            dial_again(r, what, fd, port);
        r.say("SO_ERROR {}", r.so_error(fd));
        r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
        r.wr("send", fd, "x");
        r.rd("recv", fd, 4);
        r.say("name kept a port {}", name_of(fd).port() != 0);
        r.meet();
    });
    t.add("connect/refused-nonblocking", closed_port, [](role& r) {
        int port = r.hear_num(), fd = r.sock(SOCK_NONBLOCK);
        dial_again(r, "first", fd, port);
        r.poll_is("poll", fd, POLLIN | POLLOUT | POLLRDHUP, POLLERR | POLLHUP);
        r.say("SO_ERROR {}", r.so_error(fd));
        r.say("SO_ERROR again {}", r.so_error(fd));
        r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
        r.meet();
    });
    t.add("connect/refused-then-connect-again", closed_port, [](role& r) {
        int port = r.hear_num(), fd = r.sock(SOCK_NONBLOCK);
        dial_again(r, "first", fd, port);
        r.until(fd, POLLERR);
        dial_again(r, "second", fd, port);  // reports the failure
        dial_again(r, "third", fd, port);   // starts anew
        r.until(fd, POLLERR);
        dial_again(r, "fourth", fd, port);
        r.meet();
    });
    t.add("connect/refused-error-taken-then-connect", closed_port, [](role& r) {
        int port = r.hear_num(), fd = r.sock(SOCK_NONBLOCK);
        dial_again(r, "first", fd, port);
        r.until(fd, POLLERR);
        r.say("SO_ERROR {}", r.so_error(fd));
        dial_again(r, "second", fd, port);
        dial_again(r, "third", fd, port);
        r.until(fd, POLLERR);
        r.meet();
    });
    for (bool by_write : {false, true}) {
        t.add(std::format("connect/refused-error-by-{}", by_write ? "send" : "recv"), closed_port, [=](role& r) {
            int port = r.hear_num(), fd = r.sock(SOCK_NONBLOCK);
            dial_again(r, "connect", fd, port);
            r.until(fd, POLLERR);
            for (int i = 0; i < 3; i++) {
                if (by_write)
                    r.wr("send", fd, "x");
                else
                    r.rd("recv", fd, 4);
            }
            r.say("SO_ERROR {}", r.so_error(fd));
            r.meet();
        });
    }
    for (int flags : {0, static_cast<int>(SOCK_NONBLOCK)}) {
        t.add(std::format("connect/refused-then-works-{}", flags ? "nonblocking" : "blocking"), [](role& r) {
            int fd = r.bound();
            r.tell_num(name_of(fd).port());
            r.meet();
            r.okay("listen", listen(fd, 4));
            r.meet();
            int c = r.take(fd);
            r.get("get", c, 5);
            r.meet();
        }, [=](role& r) {
            int port = r.hear_num(), fd = r.sock(flags);
            dial_again(r, "connect", fd, port);
            if (flags) {
                r.until(fd, POLLERR);
                r.say("SO_ERROR {}", r.so_error(fd));
                dial_again(r, "after SO_ERROR", fd, port);
            }
            r.meet();
            r.meet();
            dial_again(r, "connect to the listener", fd, port);
            r.poll_is("poll", fd, POLLIN | POLLOUT, POLLOUT);
            dial_again(r, "connect again", fd, port);
            r.wr("send", fd, "hello");
            r.meet();
        });
    }
    t.add("connect/refused-after-listener-closed", [](role& r) {
        int fd = r.serve();
        int c = r.take(fd);
        close(fd);
        r.meet();
        r.get("established one goes on", c, 2);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num(), fd = r.dial(port);
        r.meet();
        dial_again(r, "connect", r.sock(), port);
        r.put(fd, "ok");
        r.meet();
    });
    t.add("connect/refused-epoll", closed_port, [](role& r) {
        int port = r.hear_num(), fd = r.sock(SOCK_NONBLOCK), ep = epoll_create1(0);
        dial_again(r, "connect", fd, port);
        r.ep_ctl("", ep, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT | EPOLLET, 7);
        r.ep_is("epoll", ep, EPOLLERR | EPOLLHUP);
        r.ep_now("no more edges", ep);
        r.say("SO_ERROR {}", r.so_error(fd));
        r.meet();
    });
}

void in_progress(table& t) {
    auto acceptor = [](role& r) {
        int fd = r.serve();
        int c = r.take(fd);
        r.put(c, "welcome");
        r.meet();
    };
    t.add("connect/nonblocking-polled", acceptor, [](role& r) {
        int port = r.hear_num(), fd = r.sock(SOCK_NONBLOCK);
        dial_again(r, "first", fd, port);
        r.poll_is("poll", fd, POLLOUT, POLLOUT);
        r.say("SO_ERROR {}", r.so_error(fd));
        r.get("get", fd, 7);
        r.meet();
    });
    t.add("connect/nonblocking-connect-until-done", acceptor, [](role& r) {
        int port = r.hear_num(), fd = r.sock(SOCK_NONBLOCK);
        auto a = r.loopback(port);
        dial_again(r, "first", fd, port);
        int rv = -1;
        r.eventually("connect() to say 0", [&] {
            rv = connect(fd, a.sa(), a.len);
            return rv == 0 || (errno != EINPROGRESS && errno != EALREADY);
        });
        r.ret("completion", rv);
        dial_again(r, "once more", fd, port);
        dial_again(r, "and again", fd, port);
        r.get("get", fd, 7);  // of the one and only connection
        r.meet();
    });
    t.add("connect/polled-makes-one-connection", [](role& r) {
        int fd = r.serve();
        r.take(fd);
        r.meet();
        fcntl(fd, F_SETFL, O_NONBLOCK);
        nap(settle_ms);
        r.ret("second accept", accept(fd, nullptr, nullptr));
        r.meet();
    }, [](role& r) {
        int port = r.hear_num(), fd = r.sock(SOCK_NONBLOCK);
        auto a = r.loopback(port);
        for (int i = 0; i < 20; i++) {
            connect(fd, a.sa(), a.len);
            nap(1);
        }
        r.meet();
        r.meet();
    });
    t.add("connect/nonblocking-write-first", acceptor, [](role& r) {
        int port = r.hear_num(), fd = r.sock(SOCK_NONBLOCK);
        dial_again(r, "connect", fd, port);
        r.until(fd, POLLOUT);
        r.wr("send", fd, "hi");
        dial_again(r, "connect after send", fd, port);
        r.get("get", fd, 7);
        r.meet();
    });
    t.add("connect/nonblocking-then-blocking-recv", acceptor, [](role& r) {
        int port = r.hear_num(), fd = r.sock(SOCK_NONBLOCK);
        dial_again(r, "connect", fd, port);
        fcntl(fd, F_SETFL, 0);
        r.until(fd, POLLOUT);
        r.get("get", fd, 7);
        r.meet();
    });
    t.add("connect/epoll-edge", acceptor, [](role& r) {
        int port = r.hear_num(), fd = r.sock(SOCK_NONBLOCK), ep = epoll_create1(0);
        dial_again(r, "connect", fd, port);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLOUT | EPOLLET, 7);
        r.ep_is("epoll", ep, EPOLLOUT);
        r.get("get", fd, 7);
        r.meet();
    });
    t.add("connect/select-writable", acceptor, [](role& r) {
        int port = r.hear_num(), fd = r.sock(SOCK_NONBLOCK);
        dial_again(r, "connect", fd, port);
        fd_set w;
        FD_ZERO(&w);
        FD_SET(fd, &w);
        timeval tv{2, 0};
        r.ret("select", select(fd + 1, nullptr, &w, nullptr, &tv));
        r.say("SO_ERROR {}", r.so_error(fd));
        r.meet();
    });
    t.add("connect/on-connected", acceptor, [](role& r) {
        int port = r.hear_num(), fd = r.dial(port);
        dial_again(r, "same address", fd, port);
        dial_again(r, "another address", fd, port == 9 ? 10 : 9);
        r.get("get", fd, 7);
        r.meet();
    });
    t.add("connect/early-data", [](role& r) {
        int fd = r.serve();
        r.meet();
        r.poll_is("listener", fd, POLLIN | POLLOUT, POLLIN);
        int c = r.take(fd);
        r.get("get", c, 11);
        r.meet();
    }, [](role& r) {
        int fd = r.dial(r.hear_num());
        r.wr("send", fd, "before ");
        r.wr("send", fd, "accept");
        r.poll_now("poll", fd, POLLIN | POLLOUT);
        r.meet();
        r.meet();
    });
}

void addresses(table& t) {
    auto report = [](role& r) {
        int fd = r.serve();
        endpoint from;
        int c = accept(fd, from.sa(), &from.len);
        r.say("family {} len {}", from.family() == r.family, from.len);
        r.say("peer {}", from.host());
        int port = r.hear_num();
        r.yes("accept's port", from.port() == port);
        r.yes("getpeername is the same", peer_of(c) == from);
        r.yes("getsockname is the listener's", name_of(c) == name_of(fd));
        r.meet();
    };
    struct from {
        const char *name, *v4, *v6;
    };
    for (auto f : {from{"unbound", nullptr, nullptr}, from{"bound", "127.0.0.1", "::1"},
                   from{"bound-wildcard", "0.0.0.0", "::"}, from{"bound-other-loopback", "127.0.0.77", nullptr}}) {
        auto& s = t.add(std::string("connect/address-") + f.name, report, [=](role& r) {
            int port = r.hear_num(), fd = r.sock();
            if (auto host = r.family == AF_INET ? f.v4 : f.v6) {
                auto a = make_endpoint(r.family, host, 0);
                r.okay("bind", bind(fd, a.sa(), a.len));
                r.say("before: {} port {}", name_of(fd).host(), name_of(fd).port() != 0);
            }
            int before = name_of(fd).port();
            dial_again(r, "connect", fd, port);
            auto me = name_of(fd);
            r.say("after: {}", me.host());
            r.yes("bound port kept", before == 0 || before == me.port());
            r.yes("peer is the listener", peer_of(fd) == r.loopback(port));
            r.tell_num(me.port());
            r.meet();
        });
        if (f.v4 && !f.v6)
            s.only(AF_INET);
    }
    t.add("connect/address-given-port", report, [](role& r) {
        int probe = r.bound(), mine = name_of(probe).port();
        close(probe);
        int port = r.hear_num(), fd = r.sock(), one = 1;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        auto a = r.loopback(mine);
        r.okay("bind", bind(fd, a.sa(), a.len));
        dial_again(r, "connect", fd, port);
        r.yes("my port", name_of(fd).port() == mine);
        r.tell_num(mine);
        r.meet();
    });
    t.add("connect/address-while-connecting", report, [](role& r) {
        int port = r.hear_num(), fd = r.sock(SOCK_NONBLOCK);
        dial_again(r, "connect", fd, port);
        auto me = name_of(fd);
        r.say("at once: {} port {}", me.host(), me.port() != 0);
        r.until(fd, POLLOUT);
        r.yes("the same when connected", name_of(fd) == me);
        r.tell_num(me.port());
        r.meet();
    });
    t.add("connect/same-local-port-twice", [](role& r) {
        int fd = r.serve();
        r.take(fd);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num(), one = 1;
        int a = r.sock(), b = r.sock();
        for (int fd : {a, b})
            setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        auto local = r.loopback();
        r.okay("bind", bind(a, local.sa(), local.len));
        local = name_of(a);
        r.okay("bind the other", bind(b, local.sa(), local.len));
        dial_again(r, "connect", a, port);
        dial_again(r, "connect the other", b, port);
        r.meet();
    });
    t.add("connect/to-wildcard", [](role& r) {
        int fd = r.serve();
        endpoint from;
        int c = accept(fd, from.sa(), &from.len);
        r.say("peer {}", from.host());
        r.put(c, "x");
        r.meet();
    }, [](role& r) {
        auto a = r.wildcard(r.hear_num());
        int fd = r.sock();
        r.okay("connect", connect(fd, a.sa(), a.len));
        r.say("peer {} me {}", peer_of(fd).host(), name_of(fd).host());
        r.get("get", fd, 1);
        r.meet();
    });
    t.add("connect/to-listener-on-wildcard", [](role& r) {
        int fd = r.sock();
        auto a = r.wildcard();
        r.okay("bind", bind(fd, a.sa(), a.len));
        r.okay("listen", listen(fd, 4));
        r.say("listener {}", name_of(fd).host());
        r.tell_num(name_of(fd).port());
        int c = r.take(fd);
        r.say("accepted {} from {}", name_of(c).host(), peer_of(c).host());
        r.meet();
    }, [](role& r) {
        int fd = r.dial(r.hear_num());
        r.say("peer {}", peer_of(fd).host());
        r.meet();
    });
    t.add("connect/mapped-client-to-v6-listener", [](role& r) {
        int fd = socket(AF_INET6, SOCK_STREAM, 0), zero = 0;
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
        auto a = make_endpoint(AF_INET6, "::", 0);
        r.okay("bind", bind(fd, a.sa(), a.len));
        r.okay("listen", listen(fd, 4));
        r.tell_num(name_of(fd).port());
        for (int i = 0; i < 2; i++) {
            endpoint from;
            int c = accept(fd, from.sa(), &from.len);
            r.say("peer {} len {}, me {}", from.host(), from.len, name_of(c).host());
            r.put(c, "x");
        }
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        for (auto [fam, host] : {std::pair{AF_INET, "127.0.0.1"}, {AF_INET6, "::1"}}) {
            int fd = socket(fam, SOCK_STREAM, 0);
            auto a = make_endpoint(fam, host, port);
            r.okay("connect", connect(fd, a.sa(), a.len));
            r.say("peer {}", peer_of(fd).host());
            r.get("get", fd, 1);
        }
        r.meet();
    }).only(AF_INET6);
    t.add("connect/v6-socket-to-mapped-address", [](role& r) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        auto a = make_endpoint(AF_INET, "127.0.0.1", 0);
        bind(fd, a.sa(), a.len);
        listen(fd, 4);
        r.tell_num(name_of(fd).port());
        endpoint from;
        int c = accept(fd, from.sa(), &from.len);
        r.say("peer {}", from.host());
        r.put(c, "x");
        r.meet();
    }, [](role& r) {
        int fd = socket(AF_INET6, SOCK_STREAM, 0);
        auto a = make_endpoint(AF_INET6, "::ffff:127.0.0.1", r.hear_num());
        r.okay("connect", connect(fd, a.sa(), a.len));
        r.say("peer {} me {}", peer_of(fd).host(), name_of(fd).host());
        r.get("get", fd, 1);
        r.meet();
    }).only(AF_INET6);
    t.add("connect/v4-client-to-v6only-listener", [](role& r) {
        int fd = -1, one = 1;
        for (int tries = 0; tries < 10; tries++) {
            int hold = socket(AF_INET, SOCK_STREAM, 0);  // keeps the port in IPv4
            auto b = make_endpoint(AF_INET, "127.0.0.1", 0);
            bind(hold, b.sa(), b.len);
            fd = socket(AF_INET6, SOCK_STREAM, 0);
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
            auto a = make_endpoint(AF_INET6, "::", name_of(hold).port());
            if (bind(fd, a.sa(), a.len) == 0)
                break;
        }
        r.okay("listen on a port that is bound in IPv4", listen(fd, 4));
        r.tell_num(name_of(fd).port());
        r.meet();
    }, [](role& r) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        auto a = make_endpoint(AF_INET, "127.0.0.1", r.hear_num());
        r.okay("connect", connect(fd, a.sa(), a.len));
        r.meet();
    }).only(AF_INET6);
}

}  // namespace

void add_connect(table& t) {
    refused(t);
    in_progress(t);
    addresses(t);
}

}  // namespace sockdiff
