// Resets: unread data at close, SO_LINGER 0, killed processes.
#include "sockdiff.hh"

namespace sockdiff {
namespace {

void linger(int fd, int on, int seconds) {
    struct linger l{on, seconds};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
}

// How a connection is reset by the peer, after it was told to.
struct way {
    const char* name;
    void (*reset)(role&, int fd);
};
const way ways[] = {
    {"unread",
     [](role& r, int fd) {
    r.bytes(fd, 3);
    close(fd);
}},
    {"linger0",
     [](role&, int fd) {
    linger(fd, 1, 0);
    close(fd);
}},
};

void reset_seen(table& t) {
    for (auto& w : ways) {
        auto peer = [&w](role& r, int fd) {
            r.meet();
            w.reset(r, fd);
        };
        std::string p = std::string("reset/") + w.name;
        auto begin = [](role& r, int fd) {
            r.put(fd, "xyz");
            r.meet();
        };
        t.pair(p + "-recv", [=](role& r, int fd) {
            begin(r, fd);
            r.until(fd, POLLERR);
            r.rd("recv", fd, 4);
            r.rd("recv", fd, 4);
            r.wr("send", fd, "x");
            r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
        }, peer);
        t.pair(p + "-blocked-recv", [=](role& r, int fd) {
            begin(r, fd);
            r.rd("recv", fd, 4);
            r.rd("recv", fd, 4);
        }, peer);
        t.pair(p + "-send", [=](role& r, int fd) {
            begin(r, fd);
            catch_signal(SIGPIPE);
            r.poll_is("poll", fd, POLLIN | POLLOUT | POLLRDHUP, POLLERR);
            r.ret("write", write(fd, "x", 1));
            r.say("SIGPIPE {}", signals_seen(SIGPIPE));
            r.ret("write", write(fd, "x", 1));
            r.say("SIGPIPE {}", signals_seen(SIGPIPE));
            r.rd("recv", fd, 4);
        }, peer);
        t.pair(p + "-so-error", [=](role& r, int fd) {
            begin(r, fd);
            r.until(fd, POLLERR);
            r.say("SO_ERROR {} then {}", r.so_error(fd), r.so_error(fd));
            r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
            r.rd("recv", fd, 4);
            r.wr("send", fd, "x");
            endpoint e;
            r.okay("getpeername", getpeername(fd, e.sa(), &e.len));
            r.okay("getsockname", getsockname(fd, e.sa(), &e.len));
            r.ret("shutdown", shutdown(fd, SHUT_RDWR));
        }, peer);
        t.pair(p + "-epoll-edge", [=](role& r, int fd) {
            int ep = epoll_create1(0);
            r.ep_ctl("", ep, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP | EPOLLET, 1);
            begin(r, fd);
            r.ep_is("epoll", ep, EPOLLERR | EPOLLHUP);
            r.rd("recv", fd, 4);
        }, peer);
        t.pair(p + "-after-data", [=](role& r, int fd) {
            begin(r, fd);
            r.until(fd, POLLERR);
            int n = -1;
            ioctl(fd, FIONREAD, &n);
            r.say("FIONREAD {}", n);
            r.rd("recv", fd, 4);
            r.rd("recv", fd, 16);
            r.rd("recv", fd, 16);
            r.rd("recv", fd, 16);
        }, [&w](role& r, int fd) {
            r.meet();
            r.put(fd, "data before");
            w.reset(r, fd);
        });
        t.pair(p + "-peek-and-waitall", [=](role& r, int fd) {
            begin(r, fd);
            r.until(fd, POLLERR);
            r.rd("peek", fd, 4, MSG_PEEK);
            r.rd("peek", fd, 4, MSG_PEEK);
            r.rd("waitall", fd, 4, MSG_WAITALL);
            r.rd("recv", fd, 4);
        }, peer);
        t.pair(p + "-waitall-in-the-middle", [=](role& r, int fd) {
            begin(r, fd);
            r.rd("waitall", fd, 32, MSG_WAITALL);
            r.rd("recv", fd, 4);
            r.rd("recv", fd, 4);
        }, [&w](role& r, int fd) {
            r.meet();
            r.put(fd, "part");
            nap(settle_ms * 2);
            w.reset(r, fd);
        });
        t.pair(p + "-blocked-writer", [=](role& r, int fd) {
            std::string big = pattern(16 << 20);
            r.put(fd, "xyz");
            r.meet();
            long n = send(fd, big.data(), big.size(), MSG_NOSIGNAL);
            r.say("send: a part {}", n > 0 && n < static_cast<long>(big.size()));
            r.wr("send", fd, "x");
            r.wr("send", fd, "x");
            r.rd("recv", fd, 4);
        }, [&w](role& r, int fd) {
            r.meet();
            r.bytes(fd, 4);
            nap(settle_ms * 3);
            w.reset(r, fd);
        });
        t.pair(p + "-half-closed", [=](role& r, int fd) {
            r.put(fd, "xyz");
            shutdown(fd, SHUT_WR);
            r.meet();
            r.until(fd, POLLERR);
            r.rd("recv", fd, 4);
            r.rd("recv", fd, 4);
        }, peer);
        t.pair(p + "-select", [=](role& r, int fd) {
            begin(r, fd);
            r.until(fd, POLLERR);
            fd_set a, b, c;
            for (auto s : {&a, &b, &c})
                FD_ZERO(s);
            for (auto s : {&a, &b, &c})
                FD_SET(fd, s);
            timeval tv{};
            r.ret("select", select(fd + 1, &a, &b, &c, &tv));
            r.say("r {} w {} e {}", FD_ISSET(fd, &a), FD_ISSET(fd, &b), FD_ISSET(fd, &c));
        }, peer);
    }
    t.pair("reset/unread-after-eof-from-us", [](role& r, int fd) {
        r.put(fd, "never read");
        shutdown(fd, SHUT_WR);
        r.meet();
        r.until(fd, POLLERR);
        r.rd("recv", fd, 4);
    }, [](role& r, int fd) {
        r.bytes(fd, 10);
        r.meet();
        close(fd);
    });
    t.pair("reset/linger-seconds-no-pending-data", [](role& r, int fd) {
        r.put(fd, "all of it");
        linger(fd, 1, 2);
        double from = now_s();
        r.okay("close", close(fd));
        r.yes("quick", now_s() - from < 1.5);
    }, [](role& r, int fd) { r.get("get", fd, 64); });
    t.pair("reset/linger-off", [](role& r, int fd) {
        linger(fd, 0, 0);
        r.put(fd, "all of it");
        r.okay("close", close(fd));
    }, [](role& r, int fd) { r.get("get", fd, 64); });
    t.pair("reset/linger0-with-own-unsent-data", [](role& r, int fd) {
        r.put(fd, pattern(100000));
        linger(fd, 1, 0);
        r.okay("close", close(fd));
        r.meet();
    }, [](role& r, int fd) {
        r.meet();
        r.until(fd, POLLERR);
        std::string all;
        char b[65536];
        long n;
        while ((n = recv(fd, b, sizeof b, 0)) > 0)
            all.append(b, n);
        r.got("last", n, b);
    });
    t.pair("reset/linger0-then-shutdown-first", [](role& r, int fd) {
        r.put(fd, "abc");
        r.meet();
        linger(fd, 1, 0);
        shutdown(fd, SHUT_RDWR);
        close(fd);
    }, [](role& r, int fd) {
        r.bytes(fd, 3);
        r.meet();
        r.poll_is("poll", fd, POLLIN | POLLOUT | POLLRDHUP, POLLRDHUP | POLLERR);
        r.rd("recv", fd, 8);
        r.rd("recv", fd, 8);
        r.wr("send", fd, "x");
    });
}

void killed(table& t) {
    // The client's connection lives in a child that is killed.
    for (bool unread : {false, true}) {
        t.add(std::format("killed/{}", unread ? "with-unread-data" : "nothing-unread"), [=](role& r) {
            int fd = r.serve();
            int c = r.take(fd);
            r.get("get", c, 5);
            if (unread)
                r.put(c, "unread");
            r.meet();
            r.meet();
            r.poll_is("poll", c, POLLIN | POLLOUT | POLLRDHUP, unread ? POLLERR : POLLRDHUP);
            r.rd("recv", c, 8);
            r.rd("recv", c, 8);
            r.wr("send", c, "x");
            r.meet();
        }, [=](role& r) {
            int port = r.hear_num();
            gate ready;
            child_process c([&] {
                int fd = r.dial(port);
                r.put(fd, "hello");
                if (unread)
                    r.bytes(fd, 6);
                r.meet();
                ready.open();
                pause();
            });
            ready.wait();
            kill(c.pid, SIGKILL);
            r.say("child {}", c.wait());
            r.meet();
            r.meet();
        });
    }
    t.add("killed/server-process", [](role& r) {
        int fd = r.listening();
        r.tell_num(name_of(fd).port());
        gate ready;
        child_process c([&] {
            int s = r.take(fd);
            r.put(s, "hi");
            close(fd);
            r.meet();
            ready.open();
            pause();
        });
        close(fd);
        ready.wait();
        kill(c.pid, SIGKILL);
        r.say("child {}", c.wait());
        r.meet();
    }, [](role& r) {
        int port = r.hear_num(), fd = r.dial(port);
        r.meet();
        r.get("get", fd, 64);
        r.meet();
        auto a = r.loopback(port);
        r.ret("connect to the dead", connect(r.sock(), a.sa(), a.len));
    });
    t.add("killed/in-the-middle-of-sending", [](role& r) {
        int fd = r.serve();
        int c = r.take(fd);
        r.meet();
        nap(settle_ms);
        size_t total = 0;
        std::string b(1 << 16, 0), want = pattern(1 << 16);
        long n;
        bool same = true;
        r.meet();
        while ((n = recv(c, b.data(), b.size(), 0)) > 0) {
            for (long i = 0; i < n; i++)
                same &= b[i] == want[(total + i) % want.size()];
            total += n;
        }
        r.ret("end", n);
        r.yes("some data", total > 0);
        r.yes("in order", same);
    }, [](role& r) {
        int port = r.hear_num();
        gate ready;
        child_process c([&] {
            int fd = r.dial(port);
            std::string data = pattern(1 << 16);
            ready.open();
            for (;;)
                r.put(fd, data);
        });
        ready.wait();
        r.meet();
        nap(settle_ms * 2);
        kill(c.pid, SIGKILL);
        r.say("child {}", c.wait());
        r.meet();
    });
    t.add("killed/half-closed-peer", [](role& r) {
        int c = r.take(r.serve());
        r.eof("end", c);
        r.meet();
        r.meet();
        r.wr("send", c, "x");
        r.until(c, POLLERR);
        r.wr("send", c, "x");
        r.rd("recv", c, 4);
    }, [](role& r) {
        int port = r.hear_num();
        gate ready;
        child_process c([&] {
            int fd = r.dial(port);
            shutdown(fd, SHUT_WR);
            r.meet();
            ready.open();
            pause();
        });
        ready.wait();
        kill(c.pid, SIGKILL);
        r.say("child {}", c.wait());
        r.meet();
    });
}

}  // namespace

void add_reset(table& t) {
    reset_seen(t);
    killed(t);
}

}  // namespace sockdiff
