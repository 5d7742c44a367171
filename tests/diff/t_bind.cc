// bind: addresses in use, ports shared and found again, addresses that are not ours.
#include "sockdiff.hh"

namespace sockdiff {
namespace {

void nobody(role&) {}

int with_option(role& r, int option) {
    int fd = r.sock(), one = 1;
    if (option)
        setsockopt(fd, SOL_SOCKET, option, &one, sizeof one);
    return fd;
}
long bind_to(int fd, endpoint a) { return bind(fd, a.sa(), a.len); }

void here(table& t) {
    t.add("bind/port-zero", [](role& r) {
        int fd = r.sock();
        r.say("before: {} {}", name_of(fd).host(), name_of(fd).port());
        r.okay("bind", bind_to(fd, r.loopback()));
        r.say("after: {} {}", name_of(fd).host(), name_of(fd).port() != 0);
        r.ret("bind again", bind_to(fd, r.loopback()));
        r.ret("bind elsewhere", bind_to(fd, r.wildcard()));
    }, nobody);
    t.add("bind/errors", [](role& r) {
        int fd = r.sock();
        r.ret("not ours", bind_to(fd, make_endpoint(r.family, r.family == AF_INET ? "192.0.2.1" : "2001:db8::1", 0)));
        auto a = r.loopback();
        r.ret("short", bind(fd, a.sa(), 4));
        r.ret("zero", bind(fd, a.sa(), 0));
        r.ret("null", bind(fd, nullptr, a.len));
        a.ss.ss_family = 77;
        r.ret("family", bind(fd, a.sa(), a.len));
        r.ret("pipe", bind(0, a.sa(), a.len));
        r.ret("closed", bind(777, a.sa(), a.len));
        r.okay("after all that", bind_to(fd, r.loopback()));
    }, nobody);
    for (bool second_reuse : {false, true}) {
        for (bool first_reuse : {false, true}) {
            t.add(std::format("bind/twice-reuse-{}-{}", first_reuse, second_reuse), [=](role& r) {
                int a = with_option(r, first_reuse ? SO_REUSEADDR : 0),
                    b = with_option(r, second_reuse ? SO_REUSEADDR : 0);
                r.okay("bind", bind_to(a, r.loopback()));
                int port = name_of(a).port();
                r.ret("same port, neither listens", bind_to(b, r.loopback(port)));
                r.okay("listen", listen(a, 4));
                r.ret("second listens", listen(b, 4));
                int c = with_option(r, second_reuse ? SO_REUSEADDR : 0);
                r.ret("same port, first listens", bind_to(c, r.loopback(port)));
                int d = with_option(r, second_reuse ? SO_REUSEADDR : 0);
                r.ret("wildcard", bind_to(d, r.wildcard(port)));
                close(a);
                close(b);
                int e = with_option(r, second_reuse ? SO_REUSEADDR : 0);
                r.ret("after close", bind_to(e, r.loopback(port)));
                r.ret("listen", listen(e, 4));
            }, nobody);
        }
    }
    t.add("bind/different-loopback-addresses", [](role& r) {
        int a = r.sock(), b = r.sock();
        r.okay("bind", bind_to(a, make_endpoint(AF_INET, "127.0.0.1", 0)));
        int port = name_of(a).port();
        r.okay("listen", listen(a, 4));
        r.ret("the same port", bind_to(b, make_endpoint(AF_INET, "127.0.0.2", port)));
        r.okay("listen", listen(b, 4));
        r.tell_num(port);
        r.put(r.take(a), "first");
        r.put(r.take(b), "second");
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        for (auto host : {"127.0.0.1", "127.0.0.2"}) {
            int fd = r.sock();
            auto a = make_endpoint(AF_INET, host, port);
            r.okay("connect", connect(fd, a.sa(), a.len));
            r.get("get", fd, 64 * 0 + (strcmp(host, "127.0.0.1") ? 6 : 5));
        }
        auto a = make_endpoint(AF_INET, "127.0.0.3", port);
        r.ret("a third", connect(r.sock(), a.sa(), a.len));
        r.meet();
    }).only(AF_INET);
    t.add("bind/v4-and-v6-on-one-port", [](role& r) {
        int one = 1, a = socket(AF_INET6, SOCK_STREAM, 0), b = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(a, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
        int port = 0, ok = -1;
        for (int i = 0; i < 10 && ok != 0; i++) {
            bind_to(b, make_endpoint(AF_INET, "0.0.0.0", 0));
            port = name_of(b).port();
            ok = bind_to(a, make_endpoint(AF_INET6, "::", port));
            if (ok != 0)
                b = socket(AF_INET, SOCK_STREAM, 0);
        }
        r.okay("bind both", ok);
        r.okay("listen", listen(a, 4));
        r.okay("listen", listen(b, 4));
        int c = socket(AF_INET6, SOCK_STREAM, 0);
        r.ret("dual-stack on it", bind_to(c, make_endpoint(AF_INET6, "::", port)));
        r.tell_num(port);
        r.put(r.take(a), "six ");
        r.put(r.take(b), "four");
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        for (auto [family, host] : {std::pair{AF_INET6, "::1"}, {AF_INET, "127.0.0.1"}}) {
            int fd = socket(family, SOCK_STREAM, 0);
            auto a = make_endpoint(family, host, port);
            r.okay("connect", connect(fd, a.sa(), a.len));
            r.get("get", fd, 4);
        }
        r.meet();
    }).only(AF_INET6);
    t.add("bind/reuseport-two-listeners", [](role& r) {
        int a = with_option(r, SO_REUSEPORT), b = with_option(r, SO_REUSEPORT), c = with_option(r, 0);
        r.okay("bind", bind_to(a, r.loopback()));
        int port = name_of(a).port();
        r.okay("listen", listen(a, 32));
        r.okay("bind", bind_to(b, r.loopback(port)));
        r.okay("listen", listen(b, 32));
        r.ret("without the option", bind_to(c, r.loopback(port)));
        r.tell_num(port);
        r.meet();
        int got = 0;
        fcntl(a, F_SETFL, O_NONBLOCK);
        fcntl(b, F_SETFL, O_NONBLOCK);
        r.eventually("all connections", [&] {
            while (accept(a, nullptr, nullptr) >= 0)
                got++;
            while (accept(b, nullptr, nullptr) >= 0)
                got++;
            return got >= 20;
        });
        r.say("got {}", got);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        for (int i = 0; i < 20; i++)
            r.dial(port);
        r.meet();
        r.meet();
    });
    t.add("bind/scan-for-a-free-port", [](role& r) {
        // As Ceph's messenger does it: the first free port of a range.
        std::vector<int> held;
        int base = 0;
        for (int tries = 0; tries < 50 && held.size() < 4; tries++) {
            for (int fd : held)
                close(fd);
            held.clear();
            int probe = r.sock();
            bind_to(probe, r.loopback());
            base = name_of(probe).port();
            close(probe);
            for (int i = 0; i < 4; i++) {
                int fd = r.sock();
                if (bind_to(fd, r.loopback(base + i)) < 0 || listen(fd, 4) < 0)
                    break;
                held.push_back(fd);
            }
        }
        r.say("held {}", held.size());
        close(held[2]);
        for (int i = 0; i < 4; i++) {
            int fd = r.sock();
            long rv = bind_to(fd, r.loopback(base + i));
            r.ret("bind", rv);
            if (rv == 0)
                r.okay("listen", listen(fd, 4));
        }
    }, nobody);
}

void across(table& t) {
    for (bool reuse : {false, true}) {
        t.add(std::format("bind/other-process-listens{}", reuse ? "-reuseaddr" : ""), [=](role& r) {
            int fd = with_option(r, reuse ? SO_REUSEADDR : 0);
            bind_to(fd, r.loopback());
            listen(fd, 4);
            r.tell_num(name_of(fd).port());
            r.meet();
            close(fd);
            r.meet();
            r.meet();
        }, [=](role& r) {
            int port = r.hear_num();
            int fd = with_option(r, reuse ? SO_REUSEADDR : 0);
            r.ret("same address", bind_to(fd, r.loopback(port)));
            r.ret("wildcard", bind_to(with_option(r, reuse ? SO_REUSEADDR : 0), r.wildcard(port)));
            r.ret("reuseport", bind_to(with_option(r, SO_REUSEPORT), r.loopback(port)));
            r.meet();
            r.meet();
            r.ret("after it closed", bind_to(fd, r.loopback(port)));
            r.okay("listen", listen(fd, 4));
            r.meet();
        });
    }
    t.add("bind/other-process-listens-on-wildcard", [](role& r) {
        int fd = r.sock();
        bind_to(fd, r.wildcard());
        listen(fd, 4);
        r.tell_num(name_of(fd).port());
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        r.ret("loopback", bind_to(r.sock(), r.loopback(port)));
        r.ret("wildcard", bind_to(r.sock(), r.wildcard(port)));
        r.meet();
    });
    t.add("bind/both-bound-one-listens", [](role& r) {
        int fd = with_option(r, SO_REUSEADDR);
        bind_to(fd, r.loopback());
        r.tell_num(name_of(fd).port());
        r.meet();
        r.okay("listen", listen(fd, 4));
        r.meet();
        r.meet();
    }, [](role& r) {
        int port = r.hear_num(), fd = with_option(r, SO_REUSEADDR);
        r.ret("bind", bind_to(fd, r.loopback(port)));
        r.meet();
        r.meet();
        r.ret("listen when the other listens", listen(fd, 4));
        r.meet();
    });
    t.add("bind/reuseaddr-with-connections-left", [](role& r) {
        int fd = with_option(r, SO_REUSEADDR);
        bind_to(fd, r.loopback());
        listen(fd, 4);
        int port = name_of(fd).port();
        r.tell_num(port);
        int c = r.take(fd);
        close(fd);
        r.ret("without the option", bind_to(r.sock(), r.loopback(port)));
        int again = with_option(r, SO_REUSEADDR);
        r.ret("with it", bind_to(again, r.loopback(port)));
        r.okay("listen", listen(again, 4));
        r.meet();
        int d = r.take(again);
        r.get("old connection", c, 3);
        r.get("new connection", d, 3);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num(), fd = r.dial(port);
        r.meet();
        int other = r.dial(port);
        r.put(fd, "old");
        r.put(other, "new");
        r.meet();
    });
    t.add("bind/time-wait", [](role& r) {
        int fd = r.serve(), port = name_of(fd).port();
        int c = r.take(fd);
        close(c);  // closes first: the wait is here
        r.meet();
        close(fd);
        r.ret("without the option", bind_to(r.sock(), r.loopback(port)));
        int again = with_option(r, SO_REUSEADDR);
        r.ret("with it", bind_to(again, r.loopback(port)));
        r.okay("listen", listen(again, 4));
    }, [](role& r) {
        int fd = r.dial(r.hear_num());
        r.eof("end", fd);
        close(fd);
        nap(settle_ms);
        r.meet();
    });
    t.add("bind/client-port-is-taken", [](role& r) {
        int c = r.take(r.serve());
        r.tell_num(peer_of(c).port());
        r.meet();
    }, [](role& r) {
        int fd = r.dial(r.hear_num());
        int mine = r.hear_num();
        r.yes("the server saw my port", mine == name_of(fd).port());
        r.ret("bind to a connection's port", bind_to(r.sock(), r.loopback(mine)));
        r.ret("with REUSEADDR", bind_to(with_option(r, SO_REUSEADDR), r.loopback(mine)));
        r.meet();
    });
}

}  // namespace

void add_bind(table& t) {
    here(t);
    across(t);
}

}  // namespace sockdiff
