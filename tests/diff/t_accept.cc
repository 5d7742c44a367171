// accept in all its forms, backlog, listeners that are closed or shut down, EMFILE.
#include "sockdiff.hh"

namespace sockdiff {
namespace {

void nobody(role&) {}

body dials(int n) {
    return [n](role& r) {
        int port = r.hear_num();
        for (int i = 0; i < n; i++)
            r.dial(port);
        r.meet();
        r.meet();
    };
}

void forms(table& t) {
    t.add("accept/flags", [](role& r) {
        int fd = r.serve();
        r.meet();
        for (int flags : {0, 0 + SOCK_NONBLOCK, 0 + SOCK_CLOEXEC, SOCK_NONBLOCK | SOCK_CLOEXEC}) {
            int c = accept4(fd, nullptr, nullptr, flags);
            r.okay("accept4", c);
            r.say("nonblock {} cloexec {}", !!(fcntl(c, F_GETFL) & O_NONBLOCK), fcntl(c, F_GETFD));
        }
        r.ret("bad flags", accept4(fd, nullptr, nullptr, 0x10));
        r.okay("the one the bad call left", accept4(fd, nullptr, nullptr, 0));
        r.meet();
    }, dials(5));
    t.add("accept/nothing-inherited-from-nonblocking-listener", [](role& r) {
        int fd = r.sock(SOCK_NONBLOCK | SOCK_CLOEXEC);
        auto a = r.loopback();
        bind(fd, a.sa(), a.len);
        listen(fd, 4);
        r.ret("accept", accept(fd, nullptr, nullptr));
        r.ret("accept4", accept4(fd, nullptr, nullptr, SOCK_CLOEXEC));
        r.tell_num(name_of(fd).port());
        r.until(fd, POLLIN);
        int c = accept(fd, nullptr, nullptr);
        r.say("nonblock {} cloexec {}", !!(fcntl(c, F_GETFL) & O_NONBLOCK), fcntl(c, F_GETFD));
        r.meet();
        r.meet();
    }, dials(1));
    t.add("accept/address-forms", [](role& r) {
        int fd = r.serve();
        r.meet();
        r.okay("null address", accept(fd, nullptr, nullptr));
        endpoint e;
        memset(&e.ss, 0x5a, sizeof e.ss);
        e.len = 8;
        r.okay("short", accept(fd, e.sa(), &e.len));
        r.say("len {} family ok {} untouched beyond {}", e.len, e.ss.ss_family == r.family,
              reinterpret_cast<unsigned char*>(&e.ss)[8] == 0x5a);
        e.len = 0;
        r.okay("zero", accept(fd, e.sa(), &e.len));
        r.say("len {}", e.len);
        e.len = sizeof e.ss;
        r.okay("null, with length", accept(fd, nullptr, &e.len));
        r.say("len {}", e.len);
        e.len = static_cast<socklen_t>(-1);
        r.ret("negative", accept(fd, e.sa(), &e.len));
        e.len = sizeof e.ss;
        r.okay("whole", accept(fd, e.sa(), &e.len));
        r.say("len {} {}", e.len, e.host());
        r.meet();
    }, dials(6));
    t.pair("accept/name-forms", [](role& r, int fd) {
        endpoint e;
        for (auto call : {getsockname, getpeername}) {
            memset(&e.ss, 0x5a, sizeof e.ss);
            e.len = 4;
            r.okay("short", call(fd, e.sa(), &e.len));
            r.say("len {} family ok {} untouched beyond {}", e.len, e.ss.ss_family == r.family,
                  reinterpret_cast<unsigned char*>(&e.ss)[4] == 0x5a);
            e.len = 0;
            r.okay("zero", call(fd, e.sa(), &e.len));
            r.say("len {}", e.len);
            e.len = static_cast<socklen_t>(-1);
            r.ret("negative", call(fd, e.sa(), &e.len));
            e.len = sizeof e.ss;
            r.ret("null", call(fd, nullptr, &e.len));
            r.ret("null length", call(fd, e.sa(), nullptr));
            e.len = sizeof e.ss;
            r.okay("whole", call(fd, e.sa(), &e.len));
            r.say("len {} {} flow and scope zero {}", e.len, e.host(),
                  r.family == AF_INET || (!reinterpret_cast<sockaddr_in6&>(e.ss).sin6_scope_id &&
                                          !reinterpret_cast<sockaddr_in6&>(e.ss).sin6_flowinfo));
        }
    }, [](role&, int) {});
    t.add("accept/not-listening", [](role& r) {
        int fd = r.sock();
        r.ret("fresh", accept(fd, nullptr, nullptr));
        int b = r.bound();
        r.ret("bound", accept(b, nullptr, nullptr));
        r.ret("bad flags", accept4(b, nullptr, nullptr, 0x10));
        int p[2];
        if (pipe(p) == 0)
            r.ret("pipe", accept(p[0], nullptr, nullptr));
        r.ret("closed", accept(777, nullptr, nullptr));
        int u = socket(r.family, SOCK_DGRAM, 0);
        r.ret("udp", accept(u, nullptr, nullptr));
    }, nobody);
    t.add("accept/order-is-kept", [](role& r) {
        int fd = r.serve();
        r.meet();
        for (int i = 0; i < 8; i++)
            r.get("get", r.take(fd), 1);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        for (int i = 0; i < 8; i++)
            r.put(r.dial(port), std::string(1, static_cast<char>('a' + i)));
        r.meet();
        r.meet();
    });
    t.add("accept/client-has-gone-already", [](role& r) {
        int fd = r.serve();
        r.meet();
        for (int i = 0; i < 3; i++) {
            endpoint e;
            int c = accept(fd, e.sa(), &e.len);
            r.okay("accept", c);
            r.say("{}", e.host());
            r.until(c, POLLIN);
            r.rd("recv", c, 16);
            r.rd("recv", c, 16);
            r.say("peer known {}", peer_of(c).port() != 0);
        }
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        close(r.dial(port));
        int b = r.dial(port);
        r.put(b, "left behind");
        close(b);
        int c = r.dial(port);
        r.put(c, "and shut");
        shutdown(c, SHUT_RDWR);
        r.meet();
        r.meet();
    });
    t.add("accept/client-has-reset-already", [](role& r) {
        int fd = r.serve();
        r.meet();
        nap(settle_ms);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        r.poll_now("poll", fd, POLLIN);
        int c = accept(fd, nullptr, nullptr);
        r.okay("accept", c);
        r.rd("recv", c, 4);
        r.rd("recv", c, 4);
        endpoint e;
        r.okay("getpeername", getpeername(c, e.sa(), &e.len));
        r.ret("accept", accept(fd, nullptr, nullptr));
        r.meet();
    }, [](role& r) {
        int fd = r.dial(r.hear_num());
        struct linger l{1, 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
        close(fd);
        r.meet();
        r.meet();
    });
    t.add("accept/blocks-until-one-comes", [](role& r) {
        int fd = r.serve();
        r.meet();
        r.okay("accept", accept(fd, nullptr, nullptr));
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        r.meet();
        nap(60);
        r.dial(port);
        r.meet();
    });
}

void closing(table& t) {
    t.add("listener/shutdown-wakes-accept", [](role& r) {
        int fd = r.listening();
        std::atomic<int> tid = 0;
        std::thread th([&] {
            tid = my_tid();
            r.ret("accept", accept(fd, nullptr, nullptr));
        });
        wait_until_blocked(tid);
        int rv = shutdown(fd, SHUT_RDWR);
        th.join();
        r.ret("shutdown", rv);
        r.ret("accept", accept(fd, nullptr, nullptr));
        r.say("accepting {}", r.opt(fd, SOL_SOCKET, SO_ACCEPTCONN));
        r.okay("listen again", listen(fd, 4));
        r.say("accepting {}", r.opt(fd, SOL_SOCKET, SO_ACCEPTCONN));
        r.say("port {}", name_of(fd).port() != 0);
    }, nobody);
    for (int how : {0 + SHUT_RD, 0 + SHUT_WR}) {
        t.add(std::format("listener/shutdown-{}", how == SHUT_RD ? "rd" : "wr"), [=](role& r) {
            int fd = r.listening();
            r.ret("shutdown", shutdown(fd, how));
            fcntl(fd, F_SETFL, O_NONBLOCK);
            r.ret("accept", accept(fd, nullptr, nullptr));
            r.say("accepting {}", r.opt(fd, SOL_SOCKET, SO_ACCEPTCONN));
            r.tell_num(name_of(fd).port());
            r.meet();
        }, [](role& r) {
            int fd = r.sock();
            auto a = r.loopback(r.hear_num());
            r.ret("connect", connect(fd, a.sa(), a.len));
            r.meet();
        });
    }
    t.add("listener/closed-with-queue", [](role& r) {
        int fd = r.serve();
        r.meet();
        close(fd);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        int fd = r.dial(port), other = r.dial(port);
        r.put(other, "sent before");
        r.meet();
        r.until(fd, POLLERR);
        r.rd("recv", fd, 4);
        r.until(other, POLLERR);
        r.rd("recv", other, 4);
        r.wr("send", other, "x");
        r.meet();
        auto a = r.loopback(port);
        r.ret("connect", connect(r.sock(), a.sa(), a.len));
    });
    t.add("listener/close-while-accept-blocks", [](role& r) {
        int fd = r.serve();
        std::atomic<int> tid = 0;
        int got = -2;
        std::thread th([&] {
            tid = my_tid();
            got = accept(fd, nullptr, nullptr);
        });
        wait_until_blocked(tid);
        close(fd);
        r.meet();  // the kernel goes on to listen while somebody is in accept()
        th.join();
        r.okay("accept", got);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        r.meet();
        auto a = r.loopback(port);
        r.okay("connect", connect(r.sock(), a.sa(), a.len));
        r.meet();
        nap(settle_ms);
        r.okay("connect", connect(r.sock(), a.sa(), a.len));
    });
    t.add("listener/closed-in-one-process-open-in-another", [](role& r) {
        int fd = r.listening(), port = name_of(fd).port();
        gate go;
        child_process c([&] {
            go.wait();
            r.put(r.take(fd), "by the child");
        });
        close(fd);
        r.tell_num(port);
        go.open();
        r.say("child {}", c.wait());
        r.meet();
    }, [](role& r) {
        r.get("get", r.dial(r.hear_num()), 64);
        r.meet();
    });
    t.add("listener/process-dies", [](role& r) {
        gate ready;
        child_process c([&] {
            r.serve();
            ready.open();
            pause();
        });
        ready.wait();
        r.meet();
        kill(c.pid, SIGKILL);
        r.say("child {}", c.wait());
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        int fd = r.dial(port);
        r.meet();
        r.meet();
        r.until(fd, POLLERR);
        r.rd("recv", fd, 4);
        auto a = r.loopback(port);
        r.ret("connect", connect(r.sock(), a.sa(), a.len));
    });
    t.add("listener/again-on-the-same-port", [](role& r) {
        int one = 1, port = 0;
        for (int i = 0; i < 3; i++) {
            int fd = r.sock();
            setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
            auto a = r.loopback(port);
            r.okay("bind", bind(fd, a.sa(), a.len));
            r.okay("listen", listen(fd, 4));
            port = name_of(fd).port();
            r.tell_num(port);
            int c = r.take(fd);
            r.get("get", c, 1);
            close(c);
            close(fd);
            r.meet();
        }
    }, [](role& r) {
        for (int i = 0; i < 3; i++) {
            int fd = r.dial(r.hear_num());
            r.put(fd, "x");
            r.eof("end", fd);
            close(fd);
            r.meet();
        }
    });
    t.add("listener/listen-twice", [](role& r) {
        int fd = r.bound();
        r.okay("listen", listen(fd, 1));
        r.okay("listen", listen(fd, 10));
        r.okay("negative", listen(fd, -1));
        r.okay("huge", listen(fd, 1 << 30));
        r.tell_num(name_of(fd).port());
        r.okay("accept", accept(fd, nullptr, nullptr));
        r.okay("accept", accept(fd, nullptr, nullptr));
        r.meet();
        r.meet();
    }, dials(2));
    t.add("listener/without-bind", [](role& r) {
        int fd = r.sock();
        r.okay("listen", listen(fd, 4));
        r.say("{} port {}", name_of(fd).host(), name_of(fd).port() != 0);
        r.tell_num(name_of(fd).port());
        r.okay("accept", accept(fd, nullptr, nullptr));
        r.meet();
        r.meet();
    }, dials(1));
    t.add("listener/backlog-holds-many", [](role& r) {
        int fd = r.serve(100);
        r.meet();
        fcntl(fd, F_SETFL, O_NONBLOCK);
        int n = 0;
        r.eventually("all", [&] {
            while (accept(fd, nullptr, nullptr) >= 0)
                n++;
            return n == 90;
        });
        r.say("accepted {}", n);
        r.meet();
    }, dials(90));
    t.add("listener/listen-on-udp-and-pipe", [](role& r) {
        int u = socket(r.family, SOCK_DGRAM, 0), p[2];
        r.ret("udp", listen(u, 4));
        if (pipe(p) == 0)
            r.ret("pipe", listen(p[0], 4));
        r.ret("closed", listen(777, 4));
    }, nobody);
}

void out_of_descriptors(table& t) {
    t.add("accept/emfile", [](role& r) {
        int fd = r.serve();
        r.meet();
        rlimit old, low;
        getrlimit(RLIMIT_NOFILE, &old);
        int hole = open("/dev/null", O_RDONLY);
        low = {static_cast<rlim_t>(hole), old.rlim_max};
        setrlimit(RLIMIT_NOFILE, &low);
        close(hole);
        std::vector<int> fill;
        for (int f; (f = open("/dev/null", O_RDONLY)) >= 0;)
            fill.push_back(f);
        r.ret("accept", accept(fd, nullptr, nullptr));
        fcntl(fd, F_SETFL, O_NONBLOCK);
        r.ret("accept again", accept(fd, nullptr, nullptr));
        r.poll_now("still readable", fd, POLLIN);
        r.ret("socket", r.sock());
        setrlimit(RLIMIT_NOFILE, &old);
        int c = accept(fd, nullptr, nullptr);
        r.okay("after the limit is lifted", c);
        r.get("get", c, 2);
        r.okay("the other one", accept(fd, nullptr, nullptr));
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        int a = r.dial(port);
        r.dial(port);
        r.put(a, "hi");
        r.meet();
        r.meet();
    });
    t.add("accept/emfile-with-nothing-waiting", [](role& r) {
        int fd = r.listening();
        fcntl(fd, F_SETFL, O_NONBLOCK);
        rlimit old, low;
        getrlimit(RLIMIT_NOFILE, &old);
        low = {static_cast<rlim_t>(fd + 1), old.rlim_max};
        setrlimit(RLIMIT_NOFILE, &low);
        r.ret("accept", accept(fd, nullptr, nullptr));
        setrlimit(RLIMIT_NOFILE, &old);
        r.ret("accept", accept(fd, nullptr, nullptr));
    }, nobody);
    t.add("connect/at-the-limit", [](role& r) {
        int c = r.take(r.serve());
        r.get("get", c, 2);
        r.meet();
    }, [](role& r) {
        // socket() has the last number there is; connect() must not need another.
        int port = r.hear_num(), fd = r.sock();
        rlimit old, low;
        getrlimit(RLIMIT_NOFILE, &old);
        low = {static_cast<rlim_t>(fd + 1), old.rlim_max};
        setrlimit(RLIMIT_NOFILE, &low);
        auto a = r.loopback(port);
        r.ret("connect", connect(fd, a.sa(), a.len));
        r.wr("send", fd, "hi");
        r.ret("dup", dup(fd));
        setrlimit(RLIMIT_NOFILE, &old);
        r.meet();
    });
}

}  // namespace

void add_accept(table& t) {
    forms(t);
    closing(t);
    out_of_descriptors(t);
}

}  // namespace sockdiff
