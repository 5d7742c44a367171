// What one end has done is there for the other end when the call has returned: a connection to accept, data, an end, a
// free port. One thread does both ends, or another process looks right after it has heard of the call. Nothing waits
// before it looks.
#include "sockdiff.hh"

namespace sockdiff {
namespace {

constexpr int accepts = 200, rounds = 50;

void nobody(role&) {}

unsigned mask_now(int fd) {
    pollfd p{fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    poll(&p, 1, 0);
    return static_cast<unsigned>(p.revents);
}

std::string outcome(long rv) { return rv < 0 ? errno_name(errno) : std::string("ok"); }

// Both ends of a new connection in this process. One that comes late does not spoil the rounds that follow.
struct both_ends {
    int c, s;
};
both_ends join(role& r, int listener, int port) {
    both_ends e{r.dial(port), -1};
    e.s = accept(listener, nullptr, nullptr);
    if (e.s < 0)
        e.s = r.accept_late(listener);
    return e;
}

void accept_after_connect(table& t) {
    t.add("atonce/accept-after-connect", [](role& r) {
        int fd = r.waiting(), port = name_of(fd).port();
        tally seen;
        for (int i = 0; i < accepts; i++) {
            int c = r.dial(port), s = accept(fd, nullptr, nullptr);
            seen.add(outcome(s));
            if (s < 0)
                s = r.accept_late(fd);
            close(c);
            close(s);
        }
        seen.show(r, "accept");
        r.ret("nothing is left", accept(fd, nullptr, nullptr));
    }, nobody);
    t.add("atonce/accept-after-polled-connect", [](role& r) {
        int fd = r.waiting(), port = name_of(fd).port();
        tally connected, seen;
        for (int i = 0; i < accepts; i++) {
            int c = r.sock(SOCK_NONBLOCK);
            connected.add(r.connect_to(c, port) ? "connected" : errno_name(errno));
            r.until(c, POLLOUT);
            int s = accept4(fd, nullptr, nullptr, SOCK_NONBLOCK);
            seen.add(outcome(s));
            if (s < 0)
                s = r.accept_late(fd);
            close(c);
            close(s);
        }
        connected.show(r, "connect");
        seen.show(r, "accept");
    }, nobody);
    t.add("atonce/listener-is-readable-after-connect", [](role& r) {
        int fd = r.waiting(), port = name_of(fd).port(), ep = epoll_create1(0);
        r.ep_ctl("", ep, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET, 1);
        tally polled, selected, edges;
        for (int i = 0; i < rounds; i++) {
            int c = r.dial_briefly(port);
            polled.add(poll_mask(mask_now(fd)));
            fd_set in;
            FD_ZERO(&in);
            FD_SET(fd, &in);
            timeval zero{};
            selected.add(std::to_string(select(fd + 1, &in, nullptr, nullptr, &zero)));
            epoll_event e{};
            edges.add(epoll_wait(ep, &e, 1, 0) == 1 ? poll_mask(e.events) : "none");
            close(r.accept_late(fd));
            close(c);
        }
        polled.show(r, "poll");
        selected.show(r, "select");
        edges.show(r, "epoll");
    }, nobody);
    t.add("atonce/listener-is-quiet-after-the-last", [](role& r) {
        int fd = r.waiting(), port = name_of(fd).port();
        tally seen;
        for (int i = 0; i < rounds; i++) {
            auto [c, s] = join(r, fd, port);
            seen.add(poll_mask(mask_now(fd)));
            close(c);
            close(s);
        }
        seen.show(r, "poll");
    }, nobody);
    t.add("atonce/accept-in-another-process", [](role& r) {
        int fd = r.waiting(), port = name_of(fd).port();
        gate dialled, taken;
        child_process child([&] {
            tally seen;
            for (int i = 0; i < accepts; i++) {
                dialled.wait();
                int s = accept4(fd, nullptr, nullptr, SOCK_CLOEXEC);
                seen.add(outcome(s));
                if (s < 0)
                    s = r.accept_late(fd);
                close(s);
                taken.open();
            }
            seen.show(r, "accept");
        });
        for (int i = 0; i < accepts; i++) {
            int c = r.dial_briefly(port);
            dialled.open();
            taken.wait();
            close(c);
        }
        r.say("child {}", child.wait());
    }, nobody);
    t.add("atonce/accept-for-another-program", [](role& r) {
        int fd = r.waiting();
        r.tell_num(name_of(fd).port());
        tally seen;
        for (int i = 0; i < accepts; i++) {
            r.meet();
            int s = accept(fd, nullptr, nullptr);
            seen.add(outcome(s));
            if (s < 0)
                s = r.accept_late(fd);
            close(s);
            r.meet();
        }
        seen.show(r, "accept");
    }, [](role& r) {
        int port = r.hear_num();
        for (int i = 0; i < accepts; i++) {
            int c = r.dial_briefly(port);
            r.meet();
            r.meet();
            close(c);
        }
    });
}

void data_after_send(table& t) {
    constexpr std::string_view text = "what was sent";
    auto look = [=](int fd, tally& had, tally& polled, tally& received) {
        int n = -1;
        ioctl(fd, FIONREAD, &n);
        had.add(std::to_string(n));
        polled.add(poll_mask(mask_now(fd)));
        char b[64];
        long got = recv(fd, b, sizeof b, MSG_DONTWAIT);
        received.add(got < 0 ? errno_name(errno) : shown({b, static_cast<size_t>(got)}));
    };
    auto show = [](role& r, const tally& had, const tally& polled, const tally& received) {
        had.show(r, "FIONREAD");
        polled.show(r, "poll");
        received.show(r, "recv");
    };
    t.add("atonce/data-within-a-process", [=](role& r) {
        int listener = r.waiting();
        auto [c, s] = join(r, listener, name_of(listener).port());
        int one = 1;
        for (int fd : {c, s})
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        tally had, polled, received;
        for (int i = 0; i < rounds; i++) {
            for (auto [from, to] : {std::pair{c, s}, {s, c}}) {
                r.put(from, text);
                look(to, had, polled, received);
            }
        }
        show(r, had, polled, received);
    }, nobody);
    t.pair("atonce/data", [=](role& r, int fd) {
        tally had, polled, received;
        for (int i = 0; i < rounds; i++) {
            r.meet();
            look(fd, had, polled, received);
            r.meet();
        }
        show(r, had, polled, received);
    }, [=](role& r, int fd) {
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        for (int i = 0; i < rounds; i++) {
            r.put(fd, text);
            r.meet();
            r.meet();
        }
    });
    t.add("atonce/data-sent-before-accept", [=](role& r) {
        int fd = r.waiting(), port = name_of(fd).port();
        tally had, polled, received;
        for (int i = 0; i < rounds; i++) {
            int c = r.dial(port);
            r.put(c, text);
            int s = r.accept_late(fd);
            look(s, had, polled, received);
            close(s);
            close(c);
        }
        show(r, had, polled, received);
    }, nobody);
}

// How a connection is ended, and what its other end then shows.
struct ending {
    const char* name;
    void (*end)(int fd);
};
const ending endings[] = {
    {"close", [](int fd) { close(fd); }},
    {"shutdown-wr", [](int fd) { shutdown(fd, SHUT_WR); }},
    {"shutdown-rdwr", [](int fd) { shutdown(fd, SHUT_RDWR); }},
    {"reset",
     [](int fd) {
    struct linger l{1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    close(fd);
}},
};

void ends(table& t) {
    auto look = [](int fd, tally& polled, tally& received) {
        polled.add(poll_mask(mask_now(fd)));
        char b[8];
        long got = recv(fd, b, sizeof b, MSG_DONTWAIT);
        received.add(got < 0 ? errno_name(errno) : std::to_string(got));
    };
    for (auto& e : endings) {
        t.add(std::format("atonce/end-by-{}-within-a-process", e.name), [=, &e](role& r) {
            int fd = r.waiting(), port = name_of(fd).port();
            tally polled, received;
            for (int i = 0; i < rounds; i++) {
                auto [c, s] = join(r, fd, port);
                if (i % 2)
                    std::swap(c, s);
                e.end(c);
                look(s, polled, received);
                close(s);
                close(c);
            }
            polled.show(r, "poll");
            received.show(r, "recv");
        }, nobody);
        t.pair(std::format("atonce/end-by-{}", e.name), [=](role& r, int fd) {
            r.meet();
            tally polled, received;
            look(fd, polled, received);
            polled.show(r, "poll");
            received.show(r, "recv");
        }, [&e](role& r, int fd) {
            e.end(fd);
            r.meet();
        });
    }
    t.add("atonce/data-and-end-before-accept", [=](role& r) {
        int fd = r.waiting(), port = name_of(fd).port();
        tally had, polled;
        for (int i = 0; i < rounds; i++) {
            int c = r.dial(port);
            r.put(c, "sent");
            close(c);
            int s = r.accept_late(fd), n = -1;
            ioctl(s, FIONREAD, &n);
            had.add(std::to_string(n));
            polled.add(poll_mask(mask_now(s)));
            close(s);
        }
        had.show(r, "FIONREAD");
        polled.show(r, "poll");
    }, nobody);
    t.add("atonce/deferred-accept-after-data", [](role& r) {
        int fd = r.waiting(), port = name_of(fd).port(), seconds = 30;
        setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof seconds);
        tally before, after;
        for (int i = 0; i < rounds; i++) {
            int c = r.dial(port);
            before.add(poll_mask(mask_now(fd)));
            r.put(c, "data");
            after.add(poll_mask(mask_now(fd)));
            close(r.accept_late(fd));
            close(c);
        }
        before.show(r, "listener before data");
        after.show(r, "listener after data");
    }, nobody);
    t.add("atonce/waiting-ones-are-reset-when-the-listener-closes", [](role& r) {
        int fd = r.waiting(), port = name_of(fd).port();
        std::vector<int> waiting;
        for (int i = 0; i < 6; i++)
            waiting.push_back(r.dial(port));
        close(fd);
        tally polled;
        for (int c : waiting)
            polled.add(poll_mask(mask_now(c)));
        polled.show(r, "poll");
    }, nobody);
    t.add("atonce/both-have-ended", [](role& r) {
        int fd = r.waiting(), port = name_of(fd).port();
        tally polled;
        for (int i = 0; i < rounds; i++) {
            auto [c, s] = join(r, fd, port);
            shutdown(s, SHUT_WR);
            shutdown(c, SHUT_WR);
            polled.add(poll_mask(mask_now(s)) + " and " + poll_mask(mask_now(c)));
            close(s);
            close(c);
        }
        polled.show(r, "poll");
    }, nobody);
    t.add("atonce/refused-after-close", [](role& r) {
        tally seen;
        for (int i = 0; i < rounds; i++) {
            int fd = r.waiting(), port = name_of(fd).port();
            auto [c, s] = join(r, fd, port);
            close(fd);
            int again = r.sock();
            seen.add(r.connect_to(again, port) ? "connected" : errno_name(errno));
            for (int open : {again, c, s})
                close(open);
        }
        seen.show(r, "connect");
    }, nobody);
    t.add("atonce/refused-after-close-elsewhere", [](role& r) {
        for (int i = 0; i < rounds; i++) {
            int fd = r.serve();
            r.meet();
            close(fd);
            r.meet();
        }
    }, [](role& r) {
        tally before, after;
        for (int i = 0; i < rounds; i++) {
            int port = r.hear_num(), fd = r.sock(), again = r.sock();
            before.add(r.connect_to(fd, port) ? "connected" : errno_name(errno));
            close(fd);
            r.meet();
            r.meet();
            after.add(r.connect_to(again, port) ? "connected" : errno_name(errno));
            close(again);
        }
        before.show(r, "before");
        after.show(r, "after");
    });
}

// Whether a port can be bound while its socket stands, and right after it was closed.
class port_use {
public:
    explicit port_use(role& r) : _r(r) {}
    void stands(int port) { _while.add(try_bind(port)); }
    void closed(int port) { _after.add(try_bind(port)); }
    void show() const {
        _while.show(_r, "bind while it stands");
        _after.show(_r, "bind after close");
    }

private:
    role& _r;
    tally _while, _after;

    std::string try_bind(int port) const {
        int fd = _r.sock();
        auto a = _r.loopback(port);
        std::string seen = outcome(bind(fd, a.sa(), a.len));
        close(fd);
        return seen;
    }
};

// Bound to a port that nobody else is given: below those that the kernel chooses from.
int bound_low(role& r) {
    static int next = getpid() * 101;  // more than the rounds: another process begins elsewhere
    for (int i = 0; i < 10000; i++) {
        int fd = r.sock();
        auto a = r.loopback(20000 + next++ % 12000);
        if (bind(fd, a.sa(), a.len) == 0)
            return fd;
        close(fd);
    }
    r.give_up("BIND FAILED " + errno_name(errno));
}

void ports(table& t) {
    t.add("atonce/port-of-a-bound-socket", [](role& r) {
        port_use use(r);
        for (int i = 0; i < rounds; i++) {
            int fd = bound_low(r), port = name_of(fd).port();
            use.stands(port);
            close(fd);
            use.closed(port);
        }
        use.show();
    }, nobody);
    t.add("atonce/port-of-a-listener", [](role& r) {
        port_use use(r);
        for (int i = 0; i < rounds; i++) {
            int fd = bound_low(r), port = name_of(fd).port();
            listen(fd, 4);
            use.stands(port);
            close(fd);
            use.closed(port);
        }
        use.show();
    }, nobody);
    t.add("atonce/port-of-a-refused-socket", [](role& r) {
        int hold = r.bound(), nowhere = name_of(hold).port();
        port_use use(r);
        for (int i = 0; i < rounds; i++) {
            int fd = bound_low(r), port = name_of(fd).port();
            r.connect_to(fd, nowhere);
            use.stands(port);
            close(fd);
            use.closed(port);
        }
        use.show();
    }, nobody);
    // Who closes first keeps the port for a while. A port that connect() chose may be one of other connections, too.
    for (bool first : {false, true}) {
        t.add(std::format("atonce/port-of-a-connection-that-closes-{}", first ? "first" : "last"), [=](role& r) {
            int fd = r.waiting(), to = name_of(fd).port();
            port_use use(r);
            for (int i = 0; i < rounds; i++) {
                int c = bound_low(r), port = name_of(c).port();
                if (!r.connect_to(c, to))
                    r.okay("connect", -1);
                int s = r.accept_late(fd);
                use.stands(port);
                if (!first)
                    close(s);
                close(c);
                use.closed(port);
                if (first)
                    close(s);
            }
            use.show();
        }, nobody);
    }
    t.add("atonce/port-of-a-client-of-another-program", [](role& r) {
        int fd = r.serve();
        for (int i = 0; i < rounds; i++) {
            int s = r.take(fd);
            close(s);
            r.meet();
        }
        r.meet();
    }, [](role& r) {
        int to = r.hear_num();
        port_use use(r);
        for (int i = 0; i < rounds; i++) {
            int c = bound_low(r), port = name_of(c).port();
            if (!r.connect_to(c, to))
                r.okay("connect", -1);
            r.meet();
            use.stands(port);
            close(c);
            use.closed(port);
        }
        use.show();
        r.meet();
    });
}

}  // namespace

void add_at_once(table& t) {
    accept_after_connect(t);
    data_after_send(t);
    ends(t);
    ports(t);
}

}  // namespace sockdiff
