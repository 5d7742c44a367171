// epoll, level-triggered, ONESHOT, EXCLUSIVE, sets in sets, registrations made early.
#include "sockdiff.hh"

namespace sockdiff {
namespace {

constexpr uint32_t in_out = EPOLLIN | EPOLLOUT;
constexpr uint32_t everything = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI;

void level(table& t) {
    t.pair("epoll/level-life", [](role& r, int fd) {
        int ep = epoll_create1(EPOLL_CLOEXEC);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, everything, 1);
        r.ep_now("fresh", ep);
        r.meet();
        r.ep_is("data", ep, EPOLLIN);
        r.ep_now("again", ep);
        r.rd("recv", fd, 2);
        r.ep_now("rest", ep);
        r.rd("recv", fd, 64);
        r.ep_now("empty", ep);
        r.meet();
        r.ep_is("end", ep, EPOLLRDHUP);
        r.ep_now("again", ep);
        shutdown(fd, SHUT_WR);
        r.ep_is("both ended", ep, EPOLLHUP);
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "data");
        r.meet();
        shutdown(fd, SHUT_WR);
    });
    t.pair("epoll/level-in-only", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
        r.ep_now("fresh", ep);
        r.meet();
        r.ep_is("data", ep, EPOLLIN);
        r.rd("recv", fd, 64);
        r.ep_now("empty", ep);
        r.meet();
        r.ep_is("end", ep, EPOLLIN);
        r.rd("recv", fd, 64);
        r.ep_now("still", ep);
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "data");
        r.meet();
        close(fd);
    });
    t.pair("epoll/level-err-hup-unasked", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, 0, 1);
        r.ep_now("fresh", ep);
        r.put(fd, "unread");
        r.meet();
        r.ep_is("reset", ep, EPOLLERR | EPOLLHUP);
        r.say("SO_ERROR {}", r.so_error(fd));
        r.ep_now("afterwards", ep);
    }, [](role& r, int fd) {
        r.bytes(fd, 6);
        r.meet();
        close(fd);
    });
    t.pair("epoll/ctl-errors", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.ep_ctl("mod before add", ep, EPOLL_CTL_MOD, fd, EPOLLIN, 1);
        r.ep_ctl("del before add", ep, EPOLL_CTL_DEL, fd, EPOLLIN, 1);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
        r.ep_ctl("add twice", ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
        r.ep_ctl("bad op", ep, 77, fd, EPOLLIN, 1);
        r.ep_ctl("itself", ep, EPOLL_CTL_ADD, ep, EPOLLIN, 1);
        r.ep_ctl("socket as set", fd, EPOLL_CTL_ADD, ep, EPOLLIN, 1);
        r.okay("null event", epoll_ctl(ep, EPOLL_CTL_MOD, fd, nullptr));
        r.okay("del null event", epoll_ctl(ep, EPOLL_CTL_DEL, fd, nullptr));
        r.ep_ctl("del again", ep, EPOLL_CTL_DEL, fd, EPOLLIN, 1);
        r.ep_ctl("add after del", ep, EPOLL_CTL_ADD, fd, EPOLLOUT, 2);
        r.ep_now("events", ep);
        close(fd);
        r.ep_ctl("del closed", ep, EPOLL_CTL_DEL, fd, 0, 0);
        r.ep_ctl("add closed", ep, EPOLL_CTL_ADD, fd, 0, 0);
        r.ep_now("nothing left", ep);
    }, [](role&, int) {});
    t.pair("epoll/mod-changes-interest-and-data", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.bytes(fd, 1);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
        r.ep_now("in", ep);
        r.ep_ctl("mod", ep, EPOLL_CTL_MOD, fd, EPOLLOUT, 0xdeadbeefcafe);
        r.ep_now("out", ep);
        r.ep_ctl("mod", ep, EPOLL_CTL_MOD, fd, in_out, 3);
        r.ep_now("both", ep);
        r.ep_ctl("mod", ep, EPOLL_CTL_MOD, fd, 0, 4);
        r.ep_now("none", ep);
        r.ep_ctl("mod", ep, EPOLL_CTL_MOD, fd, EPOLLIN, 5);
        r.ep_now("in", ep);
    }, [](role& r, int fd) { r.put(fd, "x"); });
    t.pair("epoll/two-sets", [](role& r, int fd) {
        int a = epoll_create1(0), b = epoll_create1(0);
        r.ep_ctl("add", a, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
        r.ep_ctl("add", b, EPOLL_CTL_ADD, fd, in_out | EPOLLET, 2);
        r.ep_now("b", b);
        r.meet();
        r.ep_is("a", a, EPOLLIN);
        r.ep_is("b", b, EPOLLIN);
        r.ep_now("a", a);
        r.ep_now("b", b);
        r.rd("recv", fd, 8);
        r.ep_now("a", a);
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "x");
    });
    t.pair("epoll/moved-with-unread-data", [](role& r, int fd) {
        for (uint32_t et : {0u, static_cast<uint32_t>(EPOLLET)}) {
            int a = epoll_create1(0), b = epoll_create1(0);
            r.ep_ctl("add to a", a, EPOLL_CTL_ADD, fd, EPOLLIN | et, 1);
            r.meet();
            r.ep_is("a", a, EPOLLIN);
            r.rd("recv part", fd, 1);
            r.ep_ctl("del from a", a, EPOLL_CTL_DEL, fd, 0, 0);
            r.ep_ctl("add to b", b, EPOLL_CTL_ADD, fd, EPOLLIN | et, 2);
            r.ep_now("b", b);
            r.ep_now("a", a);
            r.rd("recv", fd, 64);
            r.ep_now("b", b);
            r.meet();
            r.ep_is("b", b, EPOLLIN);
            r.rd("recv", fd, 64);
            r.ep_now("a", a);
            close(a);
            close(b);
        }
    }, [](role& r, int fd) {
        for (int i = 0; i < 4; i++) {
            r.meet();
            r.put(fd, "data");
        }
    });
    t.pair("epoll/closed-set-and-fd", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
        int copy = dup(fd);
        close(fd);  // the registration lives as long as the open file
        r.meet();
        r.ep_is("through the dup", ep, EPOLLIN);
        r.rd("recv", copy, 8);
        close(copy);
        r.ep_now("gone", ep);
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "x");
    });
    t.pair("epoll/number-reused", [](role& r, int fd) {
        int ep = epoll_create1(0), p[2];
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
        close(fd);
        if (pipe(p) < 0)
            return;
        r.yes("the number again", p[0] == fd);
        r.ep_ctl("add the pipe", ep, EPOLL_CTL_ADD, p[0], EPOLLIN, 2);
        r.ep_now("idle", ep);
        r.ret("write", write(p[1], "abc", 3));
        r.ep_now("pipe", ep);
        char b[8];
        r.got("read", read(p[0], b, 8), b);
        r.ret("not a socket", send(p[0], "x", 1, 0));
    }, [](role& r, int fd) { r.eof("end", fd); });
    t.pair("epoll/nested", [](role& r, int fd) {
        int inner = epoll_create1(0), outer = epoll_create1(0);
        r.ep_ctl("add", inner, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
        r.ep_ctl("add inner", outer, EPOLL_CTL_ADD, inner, EPOLLIN, 2);
        r.ep_now("idle", outer);
        r.poll_now("inner polled", inner, POLLIN | POLLOUT);
        r.meet();
        r.ep_is("outer", outer, EPOLLIN);
        r.poll_now("inner polled", inner, POLLIN | POLLOUT);
        r.ep_now("inner", inner);
        r.rd("recv", fd, 8);
        r.ep_now("outer empty", outer);
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "x");
    });
    t.pair("epoll/pwait-blocks-and-wakes", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
        epoll_event e[4];
        r.meet();
        r.ret("epoll_wait", epoll_wait(ep, e, 4, 4000));
        r.rd("recv", fd, 8);
        r.meet();
        timespec ts{4, 0};
        r.ret("epoll_pwait2", epoll_pwait2(ep, e, 4, &ts, nullptr));
        r.rd("recv", fd, 8);
        r.ret("no room", epoll_wait(ep, e, 0, 0));
    }, [](role& r, int fd) {
        r.meet();
        nap(40);
        r.put(fd, "x");
        r.meet();
        nap(40);
        r.put(fd, "y");
    });
}

void oneshot(table& t) {
    for (uint32_t et : {0u, static_cast<uint32_t>(EPOLLET)}) {
        t.pair(std::format("epoll/oneshot{}", et ? "-edge" : ""), [=](role& r, int fd) {
            int ep = epoll_create1(0);
            r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLONESHOT | et, 1);
            r.meet();
            r.ep_is("first", ep, EPOLLIN);
            r.ep_now("disarmed", ep);
            r.meet();
            r.bytes(fd, 2);
            r.ep_now("still, with new data", ep);
            r.ep_ctl("rearm", ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLONESHOT | et, 2);
            r.ep_now("second", ep);
            r.ep_now("disarmed", ep);
            r.rd("recv", fd, 8);
            r.ep_ctl("rearm", ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLONESHOT | et, 3);
            r.ep_now("empty", ep);
            r.meet();
            r.ep_is("end", ep, EPOLLIN);
            r.ep_now("disarmed", ep);
        }, [](role& r, int fd) {
            r.meet();
            r.put(fd, "a");
            r.meet();
            r.put(fd, "b");
            r.meet();
            shutdown(fd, SHUT_WR);
        });
    }
    t.pair("epoll/oneshot-disarmed-and-reset", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLOUT | EPOLLONESHOT, 1);
        r.ep_now("first", ep);
        r.put(fd, "unread");
        r.meet();
        r.until(fd, POLLERR);
        r.ep_now("disarmed: not even ERR", ep);
        r.ep_ctl("rearm", ep, EPOLL_CTL_MOD, fd, EPOLLOUT | EPOLLONESHOT, 1);
        r.ep_now("rearmed", ep);
    }, [](role& r, int fd) {
        r.bytes(fd, 6);
        r.meet();
        close(fd);
    });
    t.pair("epoll/exclusive", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLEXCLUSIVE, 1);
        r.ep_ctl("mod is refused", ep, EPOLL_CTL_MOD, fd, EPOLLIN, 1);
        r.ep_ctl("mod to exclusive", ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLEXCLUSIVE, 1);
        r.meet();
        r.ep_is("data", ep, EPOLLIN);
        int other = epoll_create1(0);
        r.ep_ctl("with oneshot", other, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT, 1);
        r.ep_ctl("with edge", other, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLEXCLUSIVE | EPOLLET, 1);
        r.ep_now("other", other);
        r.rd("recv", fd, 8);
        r.ep_now("empty", ep);
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "x");
    });
    t.add("epoll/exclusive-listener", [](role& r) {
        int fd = r.serve();
        fcntl(fd, F_SETFL, O_NONBLOCK);
        std::atomic<int> taken = 0;
        std::vector<std::thread> threads;
        std::atomic<bool> stop = false;
        for (int i = 0; i < 3; i++)
            threads.emplace_back([&] {
                int ep = epoll_create1(0);
                epoll_event e{};
                e.events = EPOLLIN | EPOLLEXCLUSIVE;
                epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
                while (!stop) {
                    if (epoll_wait(ep, &e, 1, 50) > 0 && accept(fd, nullptr, nullptr) >= 0)
                        taken++;
                }
            });
        r.meet();
        r.eventually("all", [&] { return taken == 12; });
        nap(settle_ms);
        stop = true;
        for (auto& th : threads)
            th.join();
        r.say("accepted {}", taken.load());
    }, [](role& r) {
        int port = r.hear_num();
        r.meet();
        for (int i = 0; i < 12; i++)
            r.dial(port);
        nap(300);
    });
}

void early(table& t) {
    struct moment {
        const char* name;
        bool before_bind;
    };
    for (uint32_t et : {0u, static_cast<uint32_t>(EPOLLET)}) {
        std::string p = et ? "-edge" : "";
        for (auto m : {moment{"bind", true}, {"listen", false}}) {
            t.add(std::format("epoll/added-before-{}{}", m.name, p), [=](role& r) {
                int fd = r.sock(SOCK_NONBLOCK), ep = epoll_create1(0);
                auto a = r.loopback();
                auto add = [&] { r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLIN | et, 42); };
                if (m.before_bind)
                    add();
                bind(fd, a.sa(), a.len);
                if (!m.before_bind)
                    add();
                r.okay("listen", listen(fd, 8));
                if (!et)
                    r.ep_now("idle", ep);
                r.tell_num(name_of(fd).port());
                r.ep_is("connection", ep, EPOLLIN);
                r.okay("accept", accept(fd, nullptr, nullptr));
                r.ret("accept", accept(fd, nullptr, nullptr));
                r.ep_now("taken", ep);
                r.meet();
                r.ep_is("next connection", ep, EPOLLIN);
                r.ep_ctl("del", ep, EPOLL_CTL_DEL, fd, 0, 0);
                r.meet();
            }, [](role& r) {
                int port = r.hear_num();
                r.dial(port);
                r.meet();
                r.dial(port);
                r.meet();
            });
        }
        t.add("epoll/added-before-connect" + p, [](role& r) {
            int fd = r.serve();
            int c = r.take(fd);
            r.meet();
            r.put(c, "x");
            r.meet();
        }, [=](role& r) {
            int fd = r.sock(SOCK_NONBLOCK), ep = epoll_create1(0);
            static char thing[16];
            r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, in_out | et, 5);
            auto a = r.loopback(r.hear_num());
            r.ret("connect", connect(fd, a.sa(), a.len));
            r.ep_is("connected", ep, EPOLLOUT);
            epoll_event e{};
            e.events = EPOLLIN | et;
            e.data.ptr = thing;
            r.okay("mod to a pointer", epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e));
            r.meet();
            r.until(fd, POLLIN);
            epoll_event got{};
            r.ret("epoll_wait", epoll_wait(ep, &got, 1, 2000));
            r.yes("the same pointer", got.data.ptr == thing);
            r.meet();
        });
        t.add("epoll/added-before-refused-connect" + p, [](role& r) {
            int fd = r.bound();
            r.tell_num(name_of(fd).port());
            r.meet();
        }, [=](role& r) {
            int fd = r.sock(SOCK_NONBLOCK), ep = epoll_create1(0);
            r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, in_out | et, 5);
            if (et)
                r.ep_now("unconnected", ep);
            auto a = r.loopback(r.hear_num());
            r.ret("connect", connect(fd, a.sa(), a.len));
            r.ep_is("refused", ep, EPOLLERR | EPOLLHUP);
            r.say("SO_ERROR {}", r.so_error(fd));
            r.meet();
        });
        t.add("epoll/added-before-connect-to-two-sets-by-dup" + p, [](role& r) {
            int c = r.take(r.serve());
            r.meet();
            r.put(c, "x");
            r.meet();
        }, [=](role& r) {
            int fd = r.sock(), a = epoll_create1(0), b = epoll_create1(0), copy = dup(fd);
            r.ep_ctl("add", a, EPOLL_CTL_ADD, fd, EPOLLIN | et, 1);
            r.ep_ctl("add dup", b, EPOLL_CTL_ADD, copy, EPOLLIN | et, 2);
            r.ep_ctl("add dup to a, too", a, EPOLL_CTL_ADD, copy, EPOLLIN | et, 3);
            auto to = r.loopback(r.hear_num());
            r.ret("connect", connect(fd, to.sa(), to.len));
            r.meet();
            r.until(fd, POLLIN);
            r.ep_now("a", a);
            r.ep_now("b", b);
            r.rd("recv by the dup", copy, 8);
            r.meet();
        });
    }
    t.add("epoll/oneshot-fired-before-connect", [](role& r) {
        r.take(r.serve());
        r.meet();
    }, [](role& r) {
        int fd = r.sock(), ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLOUT | EPOLLONESHOT, 1);
        r.ep_now("fires for a fresh socket", ep);
        auto to = r.loopback(r.hear_num());
        r.ret("connect", connect(fd, to.sa(), to.len));
        r.ep_now("stays disarmed", ep);
        r.ep_ctl("rearm", ep, EPOLL_CTL_MOD, fd, EPOLLOUT | EPOLLONESHOT, 2);
        r.ep_now("fires", ep);
        r.meet();
    });
    t.add("epoll/removed-before-connect", [](role& r) {
        int c = r.take(r.serve());
        r.put(c, "x");
        r.meet();
    }, [](role& r) {
        int fd = r.sock(), ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, in_out, 1);
        r.ep_ctl("del", ep, EPOLL_CTL_DEL, fd, 0, 0);
        auto to = r.loopback(r.hear_num());
        r.ret("connect", connect(fd, to.sa(), to.len));
        r.until(fd, POLLIN);
        r.ep_now("not there", ep);
        r.ep_ctl("del again", ep, EPOLL_CTL_DEL, fd, 0, 0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, in_out, 2);
        r.ep_now("there", ep);
        r.meet();
    });
    t.add("epoll/nested-before-connect", [](role& r) {
        int c = r.take(r.serve());
        r.put(c, "x");
        r.meet();
    }, [](role& r) {
        int fd = r.sock(), inner = epoll_create1(0), outer = epoll_create1(0);
        r.ep_ctl("add", inner, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
        r.ep_ctl("add", outer, EPOLL_CTL_ADD, inner, EPOLLIN, 2);
        auto to = r.loopback(r.hear_num());
        r.ret("connect", connect(fd, to.sa(), to.len));
        r.ep_is("outer", outer, EPOLLIN);
        r.rd("recv", fd, 8);
        r.ep_now("outer", outer);
        r.meet();
    });
}

}  // namespace

void add_epoll(table& t) {
    level(t);
    oneshot(t);
    early(t);
}

}  // namespace sockdiff
