// getsockopt and setsockopt: read-back before and after connect, on accepted sockets, bad names and
// lengths.
#include "sockdiff.hh"

namespace sockdiff {
namespace {

void nobody(role&) {}

struct option {
    const char* name;
    int level, id, value;
    int family = 0;
};
const option plain[] = {
    {"TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY, 1},
    {"SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, 1},
    {"TCP_KEEPIDLE", IPPROTO_TCP, TCP_KEEPIDLE, 77},
    {"TCP_KEEPINTVL", IPPROTO_TCP, TCP_KEEPINTVL, 13},
    {"TCP_KEEPCNT", IPPROTO_TCP, TCP_KEEPCNT, 5},
    {"TCP_USER_TIMEOUT", IPPROTO_TCP, TCP_USER_TIMEOUT, 12345},
    {"TCP_CORK", IPPROTO_TCP, TCP_CORK, 1},
    {"TCP_QUICKACK", IPPROTO_TCP, TCP_QUICKACK, 0},
    {"TCP_SYNCNT", IPPROTO_TCP, TCP_SYNCNT, 4},
    {"TCP_LINGER2", IPPROTO_TCP, TCP_LINGER2, 9},
    {"TCP_DEFER_ACCEPT", IPPROTO_TCP, TCP_DEFER_ACCEPT, 0},
    {"TCP_NOTSENT_LOWAT", IPPROTO_TCP, TCP_NOTSENT_LOWAT, 16384},
    {"SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, 50000},
    {"SO_SNDBUF", SOL_SOCKET, SO_SNDBUF, 60000},
    {"SO_RCVLOWAT", SOL_SOCKET, SO_RCVLOWAT, 1},
    {"SO_PRIORITY", SOL_SOCKET, SO_PRIORITY, 4},
    {"SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR, 1},
    {"SO_REUSEPORT", SOL_SOCKET, SO_REUSEPORT, 1},
    {"SO_OOBINLINE", SOL_SOCKET, SO_OOBINLINE, 1},
    {"SO_DONTROUTE", SOL_SOCKET, SO_DONTROUTE, 1},
    {"SO_BROADCAST", SOL_SOCKET, SO_BROADCAST, 1},
    {"SO_TIMESTAMP", SOL_SOCKET, SO_TIMESTAMP, 1},
    {"SO_BUSY_POLL", SOL_SOCKET, SO_BUSY_POLL, 0},
    {"SO_INCOMING_CPU", SOL_SOCKET, SO_INCOMING_CPU, 0},
    {"IP_TOS", IPPROTO_IP, IP_TOS, 0x10, AF_INET},
    {"IP_TTL", IPPROTO_IP, IP_TTL, 33, AF_INET},
    {"IPV6_V6ONLY", IPPROTO_IPV6, IPV6_V6ONLY, 1, AF_INET6},
    {"IPV6_TCLASS", IPPROTO_IPV6, IPV6_TCLASS, 0x20, AF_INET6},
    {"IPV6_UNICAST_HOPS", IPPROTO_IPV6, IPV6_UNICAST_HOPS, 44, AF_INET6},
};

void show(role& r, const char* when, const option& o, int fd) {
    int v = -1;
    socklen_t n = sizeof v;
    long rv = getsockopt(fd, o.level, o.id, &v, &n);
    if (rv < 0)
        r.ret(when, rv);
    else if (o.id == SO_INCOMING_CPU && o.level == SOL_SOCKET)
        r.say("{} -> ok len {}", when, n);
    else
        r.say("{} -> {} len {}", when, v, n);
}

// Buffers grow by themselves on connected sockets that were not given a size: not printed there.
bool tuned(const option& o) { return o.level == SOL_SOCKET && (o.id == SO_RCVBUF || o.id == SO_SNDBUF); }

void read_back(table& t) {
    for (auto& o : plain) {
        auto in = [&o](scenario& s) {
            if (o.family)
                s.only(o.family);
        };
        std::string p = std::string("option/") + o.name;
        in(t.add(p + "-before-connect", [&o](role& r) {
            int c = r.take(r.serve());
            r.meet();
            if (!tuned(o))
                show(r, "accepted, listener untouched", o, c);
            r.meet();
        }, [&o](role& r) {
            int fd = r.sock();
            show(r, "default", o, fd);
            r.ret("set", setsockopt(fd, o.level, o.id, &o.value, sizeof o.value));
            show(r, "after set", o, fd);
            auto a = r.loopback(r.hear_num());
            r.ret("connect", connect(fd, a.sa(), a.len));
            show(r, "after connect", o, fd);
            r.meet();
            show(r, "later", o, fd);
            r.meet();
        }));
        in(t.add(p + "-inherited", [&o](role& r) {
            int fd = r.bound();
            r.ret("set on the listener to be", setsockopt(fd, o.level, o.id, &o.value, sizeof o.value));
            r.okay("listen", listen(fd, 4));
            show(r, "listener", o, fd);
            r.tell_num(name_of(fd).port());
            int c = r.take(fd);
            show(r, "accepted", o, c);
            r.meet();
        }, [](role& r) {
            r.dial(r.hear_num());
            r.meet();
        }));
        in(t.add(p + "-connected", [&o](role& r) {
            int c = r.pair();
            r.ret("set on accepted", setsockopt(c, o.level, o.id, &o.value, sizeof o.value));
            show(r, "accepted", o, c);
            r.get("get", c, 2);
            r.meet();
        }, [&o](role& r) {
            int fd = r.pair();
            if (!tuned(o))
                show(r, "default", o, fd);
            r.ret("set", setsockopt(fd, o.level, o.id, &o.value, sizeof o.value));
            show(r, "after set", o, fd);
            int zero = 0;
            if (!tuned(o)) {
                r.ret("back to 0", setsockopt(fd, o.level, o.id, &zero, sizeof zero));
                show(r, "after that", o, fd);
            }
            r.put(fd, "ok");
            r.meet();
        }));
    }
}

void read_only(table& t) {
    auto facts = [](role& r, const char* when, int fd) {
        r.say("{}: type {} domain {} protocol {} accepting {} error {}", when, r.opt(fd, SOL_SOCKET, SO_TYPE),
              r.opt(fd, SOL_SOCKET, SO_DOMAIN) == r.family, r.opt(fd, SOL_SOCKET, SO_PROTOCOL),
              r.opt(fd, SOL_SOCKET, SO_ACCEPTCONN), r.so_error(fd));
    };
    t.pair("option/facts-connected", [=](role& r, int fd) {
        facts(r, "connected", fd);
        if (r.server)
            facts(r, "listener", r.listen_fd);
        facts(r, "fresh", r.sock());
        int one = 1;
        for (int o : {0 + SO_TYPE, 0 + SO_DOMAIN, 0 + SO_PROTOCOL, 0 + SO_ACCEPTCONN, 0 + SO_ERROR})
            r.ret("set", setsockopt(fd, SOL_SOCKET, o, &one, sizeof one));
    }, [](role&, int) {});
    t.pair("option/tcp-info", [](role& r, int fd) {
        tcp_info i{};
        socklen_t n = sizeof i;
        r.ret("fresh", getsockopt(r.sock(), IPPROTO_TCP, TCP_INFO, &i, &n));
        r.say("state {}", i.tcpi_state);
        n = sizeof i;
        r.ret("connected", getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &n));
        r.say("state {} whole {}", i.tcpi_state, n == sizeof i);
        n = 8;
        r.ret("short", getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &n));
        r.say("len {} state {}", n, i.tcpi_state);
        shutdown(fd, SHUT_WR);
        r.meet();
        r.eventually("the state after shutdown", [&] {
            n = sizeof i;
            return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &n) == 0 && i.tcpi_state == TCP_FIN_WAIT2;
        });
        r.meet();
        r.until(fd, POLLHUP);
        n = sizeof i;
        getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &n);
        r.say("state {}", i.tcpi_state);
    }, [](role& r, int fd) {
        r.meet();
        r.until(fd, POLLRDHUP);
        tcp_info i{};
        socklen_t n = sizeof i;
        getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &n);
        r.say("peer's state {}", i.tcpi_state);
        r.meet();
        close(fd);
    });
    t.pair("option/tcp-info-listener-and-maxseg", [](role& r, int fd) {
        if (r.server)
            r.say("listener state {}", [&] {
                tcp_info i{};
                socklen_t n = sizeof i;
                getsockopt(r.listen_fd, IPPROTO_TCP, TCP_INFO, &i, &n);
                return static_cast<int>(i.tcpi_state);
            }());
        int v = r.opt(fd, IPPROTO_TCP, TCP_MAXSEG);
        r.say("maxseg plausible {}", v >= 500 && v < 66000);
        int small = 1000;
        r.ret("set maxseg", setsockopt(r.sock(), IPPROTO_TCP, TCP_MAXSEG, &small, sizeof small));
        small = 1;
        r.ret("too small", setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &small, sizeof small));
    }, [](role&, int) {});
    t.pair("option/congestion", [](role& r, int fd) {
        char b[32] = {};
        socklen_t n = sizeof b;
        r.ret("get", getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, b, &n));
        r.say("named {} len {}", b[0] != 0, n);
        r.ret("set reno", setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
        memset(b, 0, sizeof b);
        n = sizeof b;
        getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, b, &n);
        r.say("{}", b);
        r.ret("set nonsense", setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "nonsense", 8));
    }, [](role&, int) {});
    t.pair("option/buffer-sizes", [](role& r, int fd) {
        for (int o : {0 + SO_RCVBUF, 0 + SO_SNDBUF}) {
            r.say("plausible {}", r.opt(fd, SOL_SOCKET, o) > 4000);
            for (int v : {1, 5000, 100000, -1}) {
                r.ret("set", setsockopt(fd, SOL_SOCKET, o, &v, sizeof v));
                r.say("{}", r.opt(fd, SOL_SOCKET, o));
            }
        }
        r.put(fd, pattern(100000));
    }, [](role& r, int fd) { r.get("get", fd, 100000); });
    t.pair("option/linger", [](role& r, int fd) {
        struct linger l{9, 9};
        socklen_t n = sizeof l;
        r.ret("get", getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &n));
        r.say("{} {} len {}", l.l_onoff, l.l_linger, n);
        for (auto v : {linger{1, 5}, linger{7, 0}, linger{0, 3}}) {
            r.ret("set", setsockopt(fd, SOL_SOCKET, SO_LINGER, &v, sizeof v));
            getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &n);
            r.say("{} {}", l.l_onoff, l.l_linger);
        }
        r.ret("short", setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, 4));
    }, [](role&, int) {});
}

void bad_calls(table& t) {
    auto calls = [](role& r, int fd) {
        int v = 1;
        socklen_t n = sizeof v;
        r.ret("get unknown", getsockopt(fd, SOL_SOCKET, 7777, &v, &n));
        r.ret("set unknown", setsockopt(fd, SOL_SOCKET, 7777, &v, sizeof v));
        r.ret("get unknown tcp", getsockopt(fd, IPPROTO_TCP, 7777, &v, &n));
        r.ret("set unknown tcp", setsockopt(fd, IPPROTO_TCP, 7777, &v, sizeof v));
        r.ret("get unknown level", getsockopt(fd, 7777, 1, &v, &n));
        r.ret("set unknown level", setsockopt(fd, 7777, 1, &v, sizeof v));
        r.ret("set short", setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &v, 1));
        r.ret("set none", setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &v, 0));
        r.ret("set null", setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, nullptr, 4));
        r.ret("set negative", setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, std::vector<int>{-5}.data(), 4));
        char small[8] = {0x5a, 0x5a, 0x5a, 0x5a};
        n = 2;
        r.ret("get short", getsockopt(fd, SOL_SOCKET, SO_TYPE, small, &n));
        r.say("len {} rest untouched {}", n, small[2] == 0x5a);
        n = 0;
        r.ret("get none", getsockopt(fd, SOL_SOCKET, SO_TYPE, small, &n));
        r.say("len {}", n);
        n = 100;
        char big[100];
        r.ret("get long", getsockopt(fd, SOL_SOCKET, SO_TYPE, big, &n));
        r.say("len {}", n);
        n = static_cast<socklen_t>(-1);
        r.ret("get negative", getsockopt(fd, SOL_SOCKET, SO_TYPE, &v, &n));
        r.ret("get null length", getsockopt(fd, SOL_SOCKET, SO_TYPE, &v, nullptr));
    };
    t.pair("option/bad-calls-connected", calls, [](role&, int) {});
    t.add("option/bad-calls-fresh", [=](role& r) { calls(r, r.sock()); }, nobody);
    t.add("option/bad-calls-listening", [=](role& r) { calls(r, r.listening()); }, nobody);
    t.add("option/not-a-socket", [](role& r) {
        int p[2], v = 1;
        socklen_t n = sizeof v;
        if (pipe(p) < 0)
            return;
        r.ret("get", getsockopt(p[0], SOL_SOCKET, SO_TYPE, &v, &n));
        r.ret("set", setsockopt(p[0], SOL_SOCKET, SO_KEEPALIVE, &v, n));
        r.ret("closed", getsockopt(777, SOL_SOCKET, SO_TYPE, &v, &n));
    }, nobody);
    t.add("option/defer-accept", [](role& r) {
        int fd = r.bound(), one = 1;
        r.ret("set", setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &one, sizeof one));
        listen(fd, 4);
        r.tell_num(name_of(fd).port());
        int c = r.take(fd);
        r.get("get", c, 5);
        r.meet();
    }, [](role& r) {
        int fd = r.dial(r.hear_num());
        r.put(fd, "first");
        r.meet();
    });
}

void low_mark(role& r, int fd, int low) {
    r.ret("set", setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low));
    r.say("is {}", r.opt(fd, SOL_SOCKET, SO_RCVLOWAT));
}

// The peer of a reader: what it sends, each time both are there.
pair_body sends(std::vector<std::string> pieces) {
    return [pieces = std::move(pieces)](role& r, int fd) {
        for (const std::string& piece : pieces) {
            r.meet();
            r.put(fd, piece);
        }
        r.meet();
    };
}
void await_bytes(role& r, int fd, int n) {
    r.meet();
    r.bytes(fd, n);
}

void selects(role& r, std::string_view what, int fd, int ms) {
    fd_set in;
    FD_ZERO(&in);
    FD_SET(fd, &in);
    timeval t{0, ms * 1000};
    r.ret(what, select(fd + 1, &in, nullptr, nullptr, &t));
}

void low_marks(table& t) {
    t.pair("option/rcvlowat-poll", [](role& r, int fd) {
        low_mark(r, fd, 4);
        await_bytes(r, fd, 2);
        r.poll_now("two bytes", fd, POLLIN);
        selects(r, "select two", fd, 30);
        await_bytes(r, fd, 4);
        r.poll_now("four bytes", fd, POLLIN);
        selects(r, "select four", fd, 30);
        r.rd("recv", fd, 1);
        r.poll_now("three are left", fd, POLLIN);
        r.rd("recv without waiting", fd, 8, MSG_DONTWAIT);
        r.rd("nothing is left", fd, 8, MSG_DONTWAIT);
        await_bytes(r, fd, 1);
        r.poll_now("one byte", fd, POLLIN);
        r.meet();
        r.poll_is("the end", fd, POLLIN | POLLRDHUP, POLLIN | POLLRDHUP);
        r.rd("recv", fd, 8);
        r.rd("recv", fd, 8);
    }, [](role& r, int fd) {
        for (const char* piece : {"ab", "cd", "e"}) {
            r.meet();
            r.put(fd, piece);
        }
        shutdown(fd, SHUT_WR);
        r.meet();
    });
    for (const bool edges : {false, true}) {
        t.pair(edges ? "option/rcvlowat-edges" : "option/rcvlowat-epoll", [edges](role& r, int fd) {
            low_mark(r, fd, 4);
            const int ep = epoll_create1(0);
            r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLIN | (edges ? uint32_t(EPOLLET) : 0u), 1);
            for (int round = 0; round < 3; ++round) {
                await_bytes(r, fd, 2);
                r.ep_now("two bytes", ep);
                await_bytes(r, fd, 4);
                r.ep_is("four bytes", ep, EPOLLIN);
                r.rd("recv one", fd, 1);
                r.ep_now("three are left", ep);
                await_bytes(r, fd, 6);
                r.ep_is("six bytes", ep, EPOLLIN);
                r.rd("recv", fd, 8);
                r.ep_now("none", ep);
            }
            r.meet();
        }, sends({"ab", "cd", "efg", "ab", "cd", "efg", "ab", "cd", "efg"}));
    }
    // Lowered to what is there, and below it: the descriptor shows it at once.
    t.pair("option/rcvlowat-lowered", [](role& r, int fd) {
        const int ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
        for (const int low : {5, 3, 1, 0}) {
            low_mark(r, fd, 20);
            await_bytes(r, fd, 5);
            r.poll_now("too few", fd, POLLIN);
            r.ep_now("too few", ep);
            low_mark(r, fd, low);
            r.poll_now("enough", fd, POLLIN);
            selects(r, "select", fd, 0);
            r.ep_is("enough", ep, EPOLLIN);
            r.ep_is("and still", ep, EPOLLIN);
            r.rd("recv", fd, 8);
            r.poll_now("all is read", fd, POLLIN);
            r.ep_now("all is read", ep);
        }
        r.meet();
    }, sends({"12345", "12345", "12345", "12345"}));
    t.pair("option/rcvlowat-raised", [](role& r, int fd) {
        const int ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
        await_bytes(r, fd, 5);
        r.ep_is("enough", ep, EPOLLIN);
        low_mark(r, fd, 6);
        r.poll_now("too few", fd, POLLIN);
        r.ep_now("too few", ep);
        await_bytes(r, fd, 6);
        r.poll_now("enough", fd, POLLIN);
        r.ep_is("enough", ep, EPOLLIN);
        r.rd("recv", fd, 8);
        r.meet();
    }, sends({"12345", "6"}));
    t.pair("option/rcvlowat-of-a-read-that-waits", [](role& r, int fd) {
        low_mark(r, fd, 4);
        for (int round = 0; round < 2; ++round) {
            r.meet();
            r.rd("recv", fd, 8);
            await_bytes(r, fd, 2);
            r.poll_now("two bytes", fd, POLLIN);
            r.rd("recv a little", fd, 2);
        }
        r.meet();
    }, [](role& r, int fd) {
        for (int round = 0; round < 2; ++round) {
            r.meet();
            for (const char* piece : {"a", "b", "cd"}) {
                usleep(10'000);
                r.put(fd, piece);
            }
            r.meet();
            r.put(fd, "ef");
        }
        r.meet();
    });
    t.add("option/rcvlowat-inherited", [](role& r) {
        int fd = r.bound();
        low_mark(r, fd, 4);
        listen(fd, 4);
        r.tell_num(name_of(fd).port());
        int c = r.take(fd);
        r.say("accepted {}", r.opt(c, SOL_SOCKET, SO_RCVLOWAT));
        await_bytes(r, c, 2);
        r.poll_now("two bytes", c, POLLIN);
        r.rd("recv without waiting", c, 8, MSG_DONTWAIT);
        await_bytes(r, c, 4);
        r.poll_now("four bytes", c, POLLIN);
        r.put(c, "xy");
        r.meet();
        r.put(c, "z!");
        r.meet();
    }, [](role& r) {
        int fd = r.sock();
        low_mark(r, fd, 4);
        r.connect_to(fd, int(r.hear_num()));
        r.say("connected {}", r.opt(fd, SOL_SOCKET, SO_RCVLOWAT));
        r.meet();
        r.put(fd, "ab");
        r.meet();
        r.put(fd, "cdef");
        r.bytes(fd, 2);
        r.poll_now("two bytes", fd, POLLIN);
        r.meet();
        r.bytes(fd, 4);
        r.poll_now("four bytes", fd, POLLIN);
        r.rd("recv", fd, 8);
        r.meet();
    });
    // More than is ever buffered: who waits for it does not wait for ever.
    t.pair("option/rcvlowat-beyond-the-buffers", [](role& r, int fd) {
        int small = 8192, low = 1 << 20;
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        r.ret("set", setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low));
        r.meet();
        size_t got = 0;
        char buffer[16384];
        while (got < 150'000) {
            if (!r.until(fd, POLLIN)) {
                break;
            }
            const ssize_t n = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
            if (n <= 0) {
                break;
            }
            got += size_t(n);
        }
        r.say("got {}", got);
        r.meet();
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, std::string(150'000, 'x'));
        shutdown(fd, SHUT_WR);
        r.meet();
    }, 20000);
}

}  // namespace

void add_options(table& t) {
    read_back(t);
    read_only(t);
    bad_calls(t);
    low_marks(t);
}

}  // namespace sockdiff
