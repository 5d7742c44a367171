// poll, ppoll, select, pselect and level-triggered readiness.
#include "sockdiff.hh"

namespace sockdiff {
namespace {

constexpr short all_events = POLLIN | POLLOUT | POLLPRI | POLLRDHUP;

void masks(table& t) {
    t.pair("poll/life-of-a-connection", [](role& r, int fd) {
        r.poll_now("fresh", fd, all_events);
        r.meet();
        r.poll_is("data", fd, all_events, POLLIN);
        r.rd("recv part", fd, 2);
        r.poll_now("rest", fd, all_events);
        r.rd("recv", fd, 64);
        r.poll_now("empty", fd, all_events);
        r.meet();
        r.poll_is("peer's end", fd, all_events, POLLRDHUP);
        r.poll_now("IN alone", fd, POLLIN);
        r.poll_now("none asked", fd, 0);
        shutdown(fd, SHUT_WR);
        r.poll_is("both ended", fd, all_events, POLLHUP);
        r.poll_now("none asked", fd, 0);
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "data");
        r.meet();
        shutdown(fd, SHUT_WR);
    });
    t.pair("poll/data-and-end", [](role& r, int fd) {
        r.poll_is("poll", fd, all_events, POLLIN | POLLRDHUP);
        r.rd("recv", fd, 64);
        r.poll_now("poll", fd, all_events);
        r.rd("recv", fd, 64);
        r.poll_now("poll", fd, all_events);
    }, [](role& r, int fd) {
        r.put(fd, "data");
        shutdown(fd, SHUT_WR);
    });
    t.pair("poll/norm-and-band-bits", [](role& r, int fd) {
        constexpr short bits = POLLRDNORM | POLLRDBAND | POLLWRNORM | POLLWRBAND;
        r.poll_now("fresh", fd, bits);
        r.meet();
        r.poll_is("data", fd, bits | POLLIN, POLLIN);
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "data");
    });
    t.pair("poll/full-and-drained", [](role& r, int fd) {
        fill_up(fd);
        r.poll_now("full", fd, all_events);
        r.meet();
        r.poll_is("drained", fd, all_events, POLLOUT);
        r.wr("send", fd, "x", MSG_DONTWAIT | MSG_NOSIGNAL);
        r.meet();
    }, [](role& r, int fd) {
        r.meet();
        drain(fd);
        r.meet();
    });
    t.pair("poll/full-then-peer-closes", [](role& r, int fd) {
        fill_up(fd);
        r.poll_now("full", fd, all_events);
        r.meet();
        r.poll_is("reset", fd, all_events, POLLERR | POLLHUP);
        r.rd("recv", fd, 4);
    }, [](role& r, int fd) {
        r.meet();
        close(fd);
    });
    t.pair("poll/full-both-ways", [](role& r, int fd) {
        fill_up(fd);
        r.meet();
        r.poll_now("full", fd, all_events);
        r.meet();
        drain(fd);
        r.meet();
        r.poll_is("after", fd, POLLOUT, POLLOUT);
    }, [](role& r, int fd) {
        fill_up(fd);
        r.meet();
        r.poll_now("full", fd, all_events);
        r.meet();
        drain(fd);
        r.meet();
        r.poll_is("after", fd, POLLOUT, POLLOUT);
    });
    t.pair("poll/wakes-blocked-poll", [](role& r, int fd) {
        pollfd p{fd, POLLIN, 0};
        r.meet();
        r.ret("poll", poll(&p, 1, 4000));
        r.say("{}", poll_mask(p.revents));
        r.rd("recv", fd, 4);
        r.meet();
        r.ret("poll", poll(&p, 1, 4000));
        r.rd("recv", fd, 4);
    }, [](role& r, int fd) {
        r.meet();
        nap(50);
        r.put(fd, "x");
        r.meet();
        nap(50);
        shutdown(fd, SHUT_WR);
    });
    t.pair("poll/many-entries", [](role& r, int fd) {
        int other[2];
        if (pipe(other) < 0)
            return;
        pollfd p[] = {{other[0], POLLIN, 0}, {fd, POLLIN, 0},        {-1, POLLIN, 7}, {fd, POLLOUT, 0},
                      {999, POLLIN, 0},      {other[1], POLLOUT, 0}, {fd, 0, 0}};
        r.bytes(fd, 1);
        r.ret("poll", poll(p, 7, 1000));
        for (auto& e : p)
            r.say("{}", poll_mask(e.revents));
    }, [](role& r, int fd) { r.put(fd, "x"); });
    t.pair("poll/closed-fd", [](role& r, int fd) {
        close(fd);
        r.poll_now("poll", fd, POLLIN | POLLOUT);
    }, [](role& r, int fd) {
        r.eof("end", fd);
        r.poll_now("poll", fd, all_events);
    });
    t.pair("poll/ppoll-zero-and-time", [](role& r, int fd) {
        pollfd p{fd, POLLIN | POLLOUT, 0};
        timespec ts{0, 0};
        r.ret("ppoll", ppoll(&p, 1, &ts, nullptr));
        r.say("{}", poll_mask(p.revents));
        p.events = POLLIN;
        ts.tv_nsec = 20000000;
        r.ret("ppoll", ppoll(&p, 1, &ts, nullptr));
        ts.tv_nsec = -1;
        r.ret("ppoll bad time", ppoll(&p, 1, &ts, nullptr));
    }, [](role&, int) {});
    t.pair("poll/ready-means-a-read-works", [](role& r, int fd) {
            // Many small rounds: what poll promised must be there, and after the last byte poll
            // must be silent.
        std::string all;
        int bad = 0, spurious = 0;
        fcntl(fd, F_SETFL, O_NONBLOCK);
        while (all.size() < 3000) {
            pollfd p{fd, POLLIN, 0};
            if (poll(&p, 1, 3000) != 1) {
                bad++;
                break;
            }
            char b[7];
            long n = recv(fd, b, sizeof b, 0);
            if (n <= 0)
                bad++, nap(1);
            else
                all.append(b, n);
            if (bad > 100)
                break;
        }
        pollfd p{fd, POLLIN, 0};
        if (poll(&p, 1, settle_ms) != 0)
            spurious++;
        r.say("bad {} spurious {} same {}", bad, spurious, all == pattern(3000, 8));
    }, [](role& r, int fd) {
        std::string s = pattern(3000, 8);
        for (size_t i = 0; i < s.size(); i += 10) {
            r.put(fd, std::string_view(s).substr(i, 10));
            if (i % 300 == 0)
                nap(1);
        }
    });
}

void show_select(role& r, const char* what, int fd, int timeout_ms) {
    fd_set a, b, c;
    for (auto s : {&a, &b, &c})
        FD_ZERO(s);
    for (auto s : {&a, &b, &c})
        FD_SET(fd, s);
    timeval tv{timeout_ms / 1000, timeout_ms % 1000 * 1000};
    int n = select(fd + 1, &a, &b, &c, &tv);
    if (n < 0)
        r.ret(what, n);
    else
        r.say("{} -> {}: r {} w {} e {}", what, n, !!FD_ISSET(fd, &a), !!FD_ISSET(fd, &b), !!FD_ISSET(fd, &c));
}

void selects(table& t) {
    t.pair("select/life-of-a-connection", [](role& r, int fd) {
        show_select(r, "fresh", fd, 0);
        r.meet();
        r.bytes(fd, 4);
        show_select(r, "data", fd, 0);
        r.rd("recv", fd, 64);
        show_select(r, "empty", fd, 0);
        r.meet();
        r.until(fd, POLLRDHUP);
        show_select(r, "end", fd, 0);
        shutdown(fd, SHUT_WR);
        r.until(fd, POLLHUP);
        show_select(r, "both ended", fd, 0);
        close(fd);
        show_select(r, "closed", fd, 0);
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "data");
        r.meet();
        shutdown(fd, SHUT_WR);
    });
    t.pair("select/blocked-is-woken", [](role& r, int fd) {
        fd_set s;
        for (int i = 0; i < 2; i++) {
            r.meet();
            FD_ZERO(&s);
            FD_SET(fd, &s);
            timespec ts{4, 0};
            r.ret("pselect", pselect(fd + 1, &s, nullptr, nullptr, &ts, nullptr));
            r.rd("recv", fd, 4);
        }
    }, [](role& r, int fd) {
        r.meet();
        nap(40);
        r.put(fd, "x");
        r.meet();
        nap(40);
        close(fd);
    });
    t.pair("select/trusting-blocking-reader", [](role& r, int fd) {
        // A blocking program that reads only what select promised must never hang in read().
        std::string all;
        bool silent = true;
        while (all.size() < 2000 && silent) {
            fd_set s;
            FD_ZERO(&s);
            FD_SET(fd, &s);
            timeval tv{2, 0};
            if (select(fd + 1, &s, nullptr, nullptr, &tv) != 1)
                break;
            char b[16];
            long n = read(fd, b, sizeof b);
            if (n <= 0)
                break;
            all.append(b, n);
        }
        r.say("same {}", all == pattern(2000, 6));
        show_select(r, "afterwards", fd, settle_ms);
    }, [](role& r, int fd) {
        std::string s = pattern(2000, 6);
        for (size_t i = 0; i < s.size(); i += 16) {
            r.put(fd, std::string_view(s).substr(i, 16));
            if (i % 160 == 0)
                nap(1);
        }
    });
    t.pair("select/full", [](role& r, int fd) {
        fill_up(fd);
        show_select(r, "full", fd, 0);
        r.meet();
        r.until(fd, POLLOUT);
        show_select(r, "drained", fd, 0);
        r.meet();
    }, [](role& r, int fd) {
        r.meet();
        drain(fd);
        r.meet();
    });
}

void listeners(table& t) {
    auto come = [](role& r) {
        int port = r.hear_num();
        r.meet();
        int fd = r.dial(port);
        r.meet();
        r.meet();
        close(fd);
    };
    t.add("poll/listener", [](role& r) {
        int fd = r.serve();
        r.poll_now("idle", fd, all_events);
        r.meet();
        r.meet();
        r.poll_is("connection waits", fd, all_events, POLLIN);
        show_select(r, "select", fd, 0);
        r.take(fd);
        r.poll_now("taken", fd, all_events);
        r.ret("shutdown", shutdown(fd, SHUT_RDWR));
        r.poll_now("shut down", fd, all_events);
        r.meet();
    }, come);
    t.add("poll/listener-wakes", [](role& r) {
        int fd = r.serve();
        r.meet();
        pollfd p{fd, POLLIN, 0};
        r.ret("poll", poll(&p, 1, 4000));
        r.say("{}", poll_mask(p.revents));
        r.take(fd);
        r.meet();
        r.meet();
    }, come);
}

}  // namespace

void add_poll(table& t) {
    masks(t);
    selects(t);
    listeners(t);
}

}  // namespace sockdiff
