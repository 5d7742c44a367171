// SO_RCVTIMEO, SO_SNDTIMEO, EINTR with and without SA_RESTART.
#include "sockdiff.hh"

#include <array>

namespace sockdiff {
namespace {

void quiet(role&, int) {}

struct stopwatch {
    double from = now_s();
    bool about(double seconds) const {
        double t = now_s() - from;
        return t > seconds * 0.85 && t < seconds + 1.5;
    }
};

void set_timeout(int fd, int which, int ms) {
    timeval tv{ms / 1000, ms % 1000 * 1000};
    setsockopt(fd, SOL_SOCKET, which, &tv, sizeof tv);
}

// Calls that wait for data.
struct reader {
    const char* name;
    long (*call)(int fd);
};
char sink[64];
const reader readers[] = {
    {"read", [](int fd) -> long { return read(fd, sink, 8); }},
    {"recv", [](int fd) -> long { return recv(fd, sink, 8, 0); }},
    {"recvfrom", [](int fd) -> long { return recvfrom(fd, sink, 8, 0, nullptr, nullptr); }},
    {"readv",
     [](int fd) -> long {
    iovec v{sink, 8};
    return readv(fd, &v, 1);
}},
    {"recvmsg",
     [](int fd) -> long {
    iovec v{sink, 8};
    msghdr m{};
    m.msg_iov = &v;
    m.msg_iovlen = 1;
    return recvmsg(fd, &m, 0);
}},
    {"recv-waitall", [](int fd) -> long { return recv(fd, sink, 8, MSG_WAITALL); }},
    {"recv-peek", [](int fd) -> long { return recv(fd, sink, 8, MSG_PEEK); }},
};

void receiving(table& t) {
    for (auto& rd : readers) {
        t.pair(std::string("timing/rcvtimeo-") + rd.name, [&](role& r, int fd) {
            set_timeout(fd, SO_RCVTIMEO, 100);
            stopwatch w;
            r.ret("call", rd.call(fd));
            r.yes("after a tenth of a second", w.about(0.1));
        }, quiet);
        t.pair(std::string("timing/eintr-") + rd.name, [&](role& r, int fd) {
            ticking tick(20, false);
            r.ret("call", rd.call(fd));
        }, quiet);
        t.pair(std::string("timing/restart-") + rd.name, [&](role& r, int fd) {
            ticking tick(20, true);
            r.ret("call", rd.call(fd));
            r.eventually("signals", [] { return signals_seen(SIGALRM) > 0; });
        }, [](role& r, int fd) {
            nap(100);
            r.put(fd, "complete");
        });
        t.pair(std::string("timing/rcvtimeo-no-restart-") + rd.name, [&](role& r, int fd) {
            set_timeout(fd, SO_RCVTIMEO, 1500);
            ticking tick(20, true);  // with a time-out set, the kernel never restarts
            r.ret("call", rd.call(fd));
        }, quiet);
    }
    t.pair("timing/rcvtimeo-waitall-part", [](role& r, int fd) {
        set_timeout(fd, SO_RCVTIMEO, 100);
        r.bytes(fd, 3);
        stopwatch w;
        r.rd("waitall", fd, 8, MSG_WAITALL);
        r.yes("after a tenth of a second", w.about(0.1));
        r.rd("again", fd, 8, MSG_WAITALL);
    }, [](role& r, int fd) { r.put(fd, "abc"); });
    t.pair("timing/eintr-waitall-part", [](role& r, int fd) {
        r.bytes(fd, 3);
        ticking tick(20, false);
        r.rd("waitall", fd, 8, MSG_WAITALL);
        r.rd("again", fd, 8, MSG_WAITALL);
    }, [](role& r, int fd) { r.put(fd, "abc"); });
    t.pair("timing/rcvtimeo-data-comes", [](role& r, int fd) {
        set_timeout(fd, SO_RCVTIMEO, 1800);
        stopwatch w;
        r.rd("recv", fd, 8);
        r.yes("before the time-out", w.about(0.05) && now_s() - w.from < 1.7);
    }, [](role& r, int fd) {
        nap(60);
        r.put(fd, "abc");
    });
    t.pair("timing/rcvtimeo-dontwait", [](role& r, int fd) {
        set_timeout(fd, SO_RCVTIMEO, 1500);
        stopwatch w;
        r.rd("recv", fd, 8, MSG_DONTWAIT);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        r.rd("recv", fd, 8);
        r.yes("at once", now_s() - w.from < 1.2);
    }, quiet);
    t.pair("timing/rcvtimeo-cleared", [](role& r, int fd) {
        set_timeout(fd, SO_RCVTIMEO, 30);
        r.rd("recv", fd, 8);
        set_timeout(fd, SO_RCVTIMEO, 0);
        r.meet();
        r.rd("recv", fd, 8);
    }, [](role& r, int fd) {
        r.meet();
        nap(100);
        r.put(fd, "abc");
    });
    t.pair("timing/rcvtimeo-read-back", [](role& r, int fd) {
        for (auto [s, us] : {std::pair{0L, 0L}, {1L, 500000L}, {7L, 0L}, {0L, 1L}, {-1L, 0L}, {0L, 1000000L}}) {
            for (int which : {SO_RCVTIMEO, SO_SNDTIMEO}) {
                timeval tv{s, us}, back{9, 9};
                r.ret("set", setsockopt(fd, SOL_SOCKET, which, &tv, sizeof tv));
                socklen_t n = sizeof back;
                getsockopt(fd, SOL_SOCKET, which, &back, &n);
                r.say("{} {} len {}", back.tv_sec, back.tv_usec, n);
            }
        }
        r.ret("short", setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &fd, 4));
    }, quiet);
}

// A full connection may still take some when the machine is busy: until nothing goes at all.
long send_when_full(int fd, const std::string& s, stopwatch& w) {
    for (int tries = 0;; tries++) {
        w = {};
        long n = send(fd, s.data(), s.size(), MSG_NOSIGNAL);
        if (n < 0 || tries == 20)
            return n;
    }
}

void sending(table& t) {
    t.pair("timing/sndtimeo", [](role& r, int fd) {
        fill_up(fd);
        set_timeout(fd, SO_SNDTIMEO, 100);
        std::string big = pattern(1 << 20);
        stopwatch w;
        r.ret("send", send_when_full(fd, big, w));
        r.yes("after a tenth of a second", w.about(0.1));
    }, quiet);
    t.pair("timing/sndtimeo-part", [](role& r, int fd) {
        set_timeout(fd, SO_SNDTIMEO, 200);
        std::string big = pattern(32 << 20);
        long n = send(fd, big.data(), big.size(), MSG_NOSIGNAL);
        r.say("a part {}", n > 0 && n < static_cast<long>(big.size()));
    }, quiet);
    t.pair("timing/eintr-send", [](role& r, int fd) {
        fill_up(fd);
        std::string big = pattern(1 << 20);
        stopwatch w;
        ticking tick(20, false);
        r.ret("send", send_when_full(fd, big, w));
    }, quiet);
    t.pair("timing/eintr-send-part", [](role& r, int fd) {
        ticking tick(100, false);
        std::string big = pattern(32 << 20);
        long n = send(fd, big.data(), big.size(), MSG_NOSIGNAL);
        r.say("a part {}", n > 0 && n < static_cast<long>(big.size()));
    }, quiet);
    t.pair("timing/restart-send", [](role& r, int fd) {
        fill_up(fd);
        r.meet();
        ticking tick(20, true);
        r.wr("send", fd, "x");
        r.eventually("signals", [] { return signals_seen(SIGALRM) > 0; });
        shutdown(fd, SHUT_WR);
    }, [](role& r, int fd) {
        r.meet();
        nap(100);
        std::string b(1 << 16, 0);
        long n;
        while ((n = recv(fd, b.data(), b.size(), 0)) > 0) {
        }
        r.ret("end", n);
    });
    t.pair("timing/restart-send-in-the-middle", [](role& r, int fd) {
        // A signal between pieces ends a send with what was sent, SA_RESTART or not.
        ticking tick(100, true);
        std::string big = pattern(32 << 20);
        long n = send(fd, big.data(), big.size(), MSG_NOSIGNAL);
        r.say("a part {}", n > 0 && n < static_cast<long>(big.size()));
    }, quiet);
}

void waiting(table& t) {
    t.pair("timing/eintr-poll", [](role& r, int fd) {
        ticking tick(20, true);  // poll is never restarted
        pollfd p{fd, POLLIN, 0};
        r.ret("poll", poll(&p, 1, -1));
        timespec ts{2, 0};
        r.ret("ppoll", ppoll(&p, 1, &ts, nullptr));
        fd_set s;
        FD_ZERO(&s);
        FD_SET(fd, &s);
        r.ret("select", select(fd + 1, &s, nullptr, nullptr, nullptr));
        FD_SET(fd, &s);
        r.ret("pselect", pselect(fd + 1, &s, nullptr, nullptr, &ts, nullptr));
        int ep = epoll_create1(0);
        r.ep_ctl("", ep, EPOLL_CTL_ADD, fd, EPOLLIN, 0);
        epoll_event e;
        r.ret("epoll_wait", epoll_wait(ep, &e, 1, -1));
        r.ret("epoll_pwait", epoll_pwait(ep, &e, 1, 2000, nullptr));
    }, quiet);
    t.pair("timing/poll-time-out", [](role& r, int fd) {
        pollfd p{fd, POLLIN, 0};
        stopwatch w;
        r.ret("poll", poll(&p, 1, 100));
        r.yes("time", w.about(0.1));
        int ep = epoll_create1(0);
        r.ep_ctl("", ep, EPOLL_CTL_ADD, fd, EPOLLIN, 0);
        epoll_event e;
        w = {};
        r.ret("epoll_wait", epoll_wait(ep, &e, 1, 100));
        r.yes("time", w.about(0.1));
        fd_set s;
        FD_ZERO(&s);
        FD_SET(fd, &s);
        timeval tv{0, 100000};
        w = {};
        r.ret("select", select(fd + 1, &s, nullptr, nullptr, &tv));
        r.yes("time", w.about(0.1));
        r.say("select took the rest: {} set: {}", tv.tv_usec == 0, !!FD_ISSET(fd, &s));
    }, quiet);
    auto knock = [](role& r) {
        int port = r.hear_num();
        r.meet();
        nap(100);
        r.dial(port);
        r.meet();
    };
    t.add("timing/accept-timeout", [](role& r) {
        int fd = r.listening();
        set_timeout(fd, SO_RCVTIMEO, 100);
        stopwatch w;
        r.ret("accept", accept(fd, nullptr, nullptr));
        r.yes("time", w.about(0.1));
    }, [](role&) {});
    t.add("timing/accept-inherits-timeout", [](role& r) {
        int fd = r.serve();
        set_timeout(fd, SO_RCVTIMEO, 1250);
        r.meet();
        int c = r.take(fd);
        timeval tv{};
        socklen_t n = sizeof tv;
        getsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &tv, &n);
        r.say("{} {}", tv.tv_sec, tv.tv_usec);
        r.meet();
    }, knock);
    t.add("timing/eintr-accept", [](role& r) {
        int fd = r.listening();
        ticking tick(20, false);
        r.ret("accept", accept(fd, nullptr, nullptr));
        r.ret("accept4", accept4(fd, nullptr, nullptr, SOCK_NONBLOCK));
    }, [](role&) {});
    t.add("timing/restart-accept", [](role& r) {
        int fd = r.serve();
        r.meet();
        ticking tick(20, true);
        r.okay("accept", accept(fd, nullptr, nullptr));
        r.eventually("signals", [] { return signals_seen(SIGALRM) > 0; });
        r.meet();
    }, knock);
    t.add("timing/accept-timeout-no-restart", [](role& r) {
        int fd = r.listening();
        set_timeout(fd, SO_RCVTIMEO, 1500);
        ticking tick(20, true);
        r.ret("accept", accept(fd, nullptr, nullptr));
    }, [](role&) {});
    t.pair("timing/ppoll-signal-mask", [](role& r, int fd) {
        catch_signal(SIGUSR1);
        sigset_t block, old;
        sigemptyset(&block);
        sigaddset(&block, SIGUSR1);
        pthread_sigmask(SIG_BLOCK, &block, &old);
        kill(getpid(), SIGUSR1);
        r.say("seen {}", signals_seen(SIGUSR1));
        pollfd p{fd, POLLIN, 0};
        r.ret("ppoll", ppoll(&p, 1, nullptr, &old));
        r.say("seen {}", signals_seen(SIGUSR1));
        r.meet();
        r.bytes(fd, 1);
        r.ret("ppoll", ppoll(&p, 1, nullptr, &old));
        kill(getpid(), SIGUSR1);
        r.rd("recv is not disturbed", fd, 4);
        r.say("seen {}", signals_seen(SIGUSR1));
        int ep = epoll_create1(0);
        r.ep_ctl("", ep, EPOLL_CTL_ADD, fd, EPOLLIN, 0);
        epoll_event e;
        r.ret("epoll_pwait", epoll_pwait(ep, &e, 1, 2000, &old));
        r.say("seen {}", signals_seen(SIGUSR1));
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "x");
    });
    t.pair("timing/handler-uses-the-socket", [](role& r, int fd) {
        // A handler that writes to the very socket the main code is reading from.
        static int sock;
        sock = fd;
        struct sigaction sa{};
        sa.sa_handler = [](int) {
            int e = errno;
            [[maybe_unused]] long n = send(sock, "tick", 4, MSG_NOSIGNAL);
            errno = e;
        };
        sa.sa_flags = SA_RESTART;
        sigaction(SIGUSR2, &sa, nullptr);
        std::atomic<int> tid = my_tid();
        std::thread th([&] {
            wait_until_blocked(tid);
            syscall(SYS_tgkill, getpid(), tid.load(), SIGUSR2);
        });
        r.rd("recv", fd, 8);
        th.join();
    }, [](role& r, int fd) {
        r.get("get", fd, 4);
        r.put(fd, "tock");
    });
}

}  // namespace

void add_timing(table& t) {
    receiving(t);
    sending(t);
    waiting(t);
}

}  // namespace sockdiff
