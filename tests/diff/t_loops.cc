// An event loop that is awake has just read all there was. Whoever looks then, or waits, sees what the kernel would show:
// another thread, another set, poll(), a child; and what comes next is told, whatever the loop does meanwhile.
#include <setjmp.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include "sockdiff.hh"

namespace sockdiff {
namespace {

constexpr uint64_t stream_data = 7;

// A loop that has taken the first message and found nothing more.
struct awake_loop {
    role& r;
    int fd;
    int ep = epoll_create1(0);

    awake_loop(role& role, int socket, uint32_t events, uint64_t data = stream_data) : r(role), fd(socket) {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        r.ep_ctl("", ep, EPOLL_CTL_ADD, fd, events, data);
        r.meet();
        r.bytes(fd, 4);
        turn("warm", 1000);
        read_all("warm");
    }
    // One call, as a loop makes it.
    void turn(std::string_view what, int timeout_ms) {
        epoll_event e[4];
        int n = epoll_wait(ep, e, 4, timeout_ms);
        r.say("{}: {} events", what, n);
        for (int i = 0; i < n; i++)
            r.say("{}: {} {}", what, uint64_t(e[i].data.u64), poll_mask(e[i].events));
    }
    void read_all(std::string_view what) {
        char b[64];
        std::string all;
        long n;
        while ((n = recv(fd, b, sizeof b, 0)) > 0)
            all.append(b, size_t(n));
        r.say("{}: read {} then {}", what, shown(all), n == 0 ? "end" : errno_name(errno));
    }
};

// The peer of all of these: a message at each meeting.
pair_body sends(int messages) {
    return [messages](role& r, int fd) {
        for (int i = 0; i < messages; i++) {
            r.meet();
            r.put(fd, "msg" + std::to_string(i % 10));
        }
    };
}

void others_look(table& t, const std::string& name, uint32_t mode) {
    t.pair("loops/poll-by-the-way" + name, [mode](role& r, int fd) {
        awake_loop l(r, fd, EPOLLIN | mode);
        for (int i = 0; i < 3; i++) {
            r.poll_now("poll, nothing there", fd, POLLIN);
            r.meet();
            r.poll_is("poll", fd, POLLIN, POLLIN);
            l.turn("turn", 1000);
            l.read_all("turn");
        }
    }, sends(4));
    t.pair("loops/select-in-a-thread" + name, [mode](role& r, int fd) {
        awake_loop l(r, fd, EPOLLIN | mode);
        std::atomic<int> tid = 0, seen = 0;
        std::thread other([&] {
            fd_set in;
            FD_ZERO(&in);
            FD_SET(fd, &in);
            timeval patience{2, 0};
            tid = my_tid();
            seen = select(fd + 1, &in, nullptr, nullptr, &patience);
        });
        wait_until_blocked(tid);
        r.meet();
        other.join();
        r.say("select {}", seen.load());
        l.turn("turn", 1000);
        l.read_all("turn");
    }, sends(2));
    t.pair("loops/second-thread-on-the-set" + name, [mode](role& r, int fd) {
        awake_loop l(r, fd, EPOLLIN | mode);
        for (int i = 0; i < 3; i++) {
            std::atomic<int> tid = 0, n = 0;
            epoll_event e{};
            std::thread other([&] {
                tid = my_tid();
                n = epoll_wait(l.ep, &e, 1, patience_ms);
            });
            wait_until_blocked(tid);
            r.meet();
            other.join();
            r.say("the other thread: {} {}", n.load(), poll_mask(e.events));
            l.read_all("this one");
            l.turn("this one", 0);
        }
    }, sends(4));
    t.pair("loops/set-in-a-set" + name, [mode](role& r, int fd) {
        awake_loop l(r, fd, EPOLLIN | mode);
        int outer = epoll_create1(0);
        r.ep_ctl("", outer, EPOLL_CTL_ADD, l.ep, EPOLLIN, 1);
        for (int i = 0; i < 3; i++) {
            r.ep_now("outer, nothing there", outer);
            r.poll_now("poll of the set", l.ep, POLLIN);
            r.meet();
            r.ep_is("outer", outer, EPOLLIN);
            l.turn("inner", 0);
            l.read_all("inner");
            l.turn("inner", 0);
        }
    }, sends(4));
    t.pair("loops/second-set" + name, [mode](role& r, int fd) {
        awake_loop l(r, fd, EPOLLIN | mode);
        int second = epoll_create1(0);
        r.ep_ctl("", second, EPOLL_CTL_ADD, fd, EPOLLIN | mode, 9);
        r.ep_now("second, nothing there", second);
        for (int i = 0; i < 3; i++) {
            r.meet();
            r.ep_is("second", second, EPOLLIN);
            l.turn("first", 1000);
            l.read_all("first");
            r.ep_now("second, read", second);
        }
    }, sends(4));
    t.pair("loops/child-polls" + name, [mode](role& r, int fd) {
        awake_loop l(r, fd, EPOLLIN | mode);
        gate ready;
        child_process c([&] {
            pollfd p{fd, POLLIN, 0};
            int before = poll(&p, 1, 0);
            ready.open();
            _exit(before * 10 + poll(&p, 1, patience_ms));
        });
        ready.wait();
        nap(settle_ms);
        r.meet();
        r.say("child: {}", c.wait());
        l.turn("turn", 1000);
        l.read_all("turn");
    }, sends(2));
    t.pair("loops/reader-thread" + name, [mode](role& r, int fd) {
        awake_loop l(r, fd, EPOLLIN | mode);
        for (int i = 0; i < 3; i++) {
            r.meet();
            r.bytes(fd, 4);
            std::thread([&] { l.read_all("thread"); }).join();
            l.turn("turn", settle_ms);
            r.meet();
            l.turn("turn", 1000);
            l.read_all("turn");
        }
    }, sends(7));
}

void registrations_change(table& t, const std::string& name, uint32_t mode) {
    for (auto [what, away, back] : {std::tuple{"in-taken-away-and-given-back", EPOLL_CTL_MOD, EPOLL_CTL_MOD},
                                    {"out-and-in-again", EPOLL_CTL_DEL, EPOLL_CTL_ADD}})
        t.pair("loops/" + std::string(what) + name, [mode, away, back](role& r, int fd) {
            awake_loop l(r, fd, EPOLLIN | mode);
            for (int i = 0; i < 3; i++) {
                r.ep_ctl("away", l.ep, away, fd, EPOLLRDHUP | mode, stream_data);
                r.meet();
                r.bytes(fd, 4);
                l.turn("without IN", settle_ms);
                r.ep_ctl("back", l.ep, back, fd, EPOLLIN | mode, stream_data);
                l.turn("with IN", 1000);
                l.read_all("with IN");
                l.turn("read", settle_ms);
            }
        }, sends(4));
    t.pair("loops/one-shot" + name, [mode](role& r, int fd) {
        awake_loop l(r, fd, EPOLLIN | mode);
        for (int i = 0; i < 3; i++) {
            r.ep_ctl("mod", l.ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLONESHOT | mode, stream_data);
            r.meet();
            l.turn("once", 1000);
            l.turn("not twice", settle_ms);
            l.read_all("read");
        }
        r.ep_ctl("mod", l.ep, EPOLL_CTL_MOD, fd, EPOLLIN | mode, stream_data);
        l.turn("nothing", settle_ms);
        r.meet();
        l.turn("as before", 1000);
        l.read_all("as before");
    }, sends(5));
    t.pair("loops/the-same-data-twice" + name, [mode](role& r, int fd) {
        awake_loop l(r, fd, EPOLLIN | mode);
        int other = eventfd(0, EFD_NONBLOCK);
        r.ep_ctl("", l.ep, EPOLL_CTL_ADD, other, EPOLLIN | EPOLLET, stream_data);
        for (int i = 0; i < 3; i++) {
            eventfd_write(other, 1);
            l.turn("the other one", 1000);
            l.turn("an edge", settle_ms);
            r.meet();
            l.turn("the stream", 1000);
            l.read_all("the stream");
        }
    }, sends(4));
    t.pair("loops/duplicate" + name, [mode](role& r, int fd) {
        awake_loop l(r, fd, EPOLLIN | mode);
        int twin = dup(fd);
        r.ep_ctl("", l.ep, EPOLL_CTL_ADD, twin, EPOLLIN | mode, 8);
        for (int i = 0; i < 3; i++) {
            l.turn("nothing", settle_ms);
            r.meet();
            r.bytes(fd, 4);
            nap(settle_ms);
            epoll_event e[4];
            r.say("both numbers: {}", epoll_wait(l.ep, e, 4, 1000));
            l.read_all("read");
        }
        close(twin);
        r.meet();
        l.turn("one number", 1000);
        l.read_all("one number");
    }, sends(5));
}

enum class ending { close, shutdown, reset };

// The peer of those: one message, and then an end.
body sends_and_ends(ending end) {
    return [end](role& r) {
        int fd = r.dial(int(r.hear_num()));
        r.meet();
        r.put(fd, "msg0");
        r.meet();
        nap(settle_ms);
        linger hard{1, 0};
        if (end == ending::shutdown)
            shutdown(fd, SHUT_WR);
        if (end == ending::reset)
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        if (end != ending::shutdown)
            close(fd);
        else
            nap(4 * settle_ms);
    };
}

void what_comes_with_it(table& t, const std::string& name, uint32_t mode) {
    t.pair("loops/busy-ring-and-others" + name, [mode](role& r, int fd) {
        awake_loop l(r, fd, EPOLLIN | mode);
        int other = eventfd(0, EFD_NONBLOCK), timer = timerfd_create(CLOCK_MONOTONIC, 0);
        r.ep_ctl("", l.ep, EPOLL_CTL_ADD, other, EPOLLIN, 1);
        r.ep_ctl("", l.ep, EPOLL_CTL_ADD, timer, EPOLLIN, 2);
        itimerspec soon{{0, 0}, {0, 5'000'000}};
        timerfd_settime(timer, 0, &soon, nullptr);
        eventfd_write(other, 1);
        r.meet();
        bool seen[3]{};
        double until = now_s() + 10;
        long taken = 0;
        while (!(seen[1] && seen[2] && taken == 3'000'000) && now_s() < until) {
            epoll_event e;
            if (epoll_wait(l.ep, &e, 1, 100) != 1)
                continue;
            uint64_t ignored;
            char b[4096];
            if (e.data.u64 != stream_data)
                seen[e.data.u64] = read(e.data.u64 == 1 ? other : timer, &ignored, 8) == 8;
            else
                for (long n; (n = recv(fd, b, sizeof b, 0)) > 0;)
                    taken += n;
        }
        r.yes("eventfd", seen[1]);
        r.yes("timer", seen[2]);
        r.yes("stream", taken == 3'000'000);
        r.meet();
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "msg0");
        r.meet();
        std::string m(1000, 'm');
        for (int i = 0; i < 3000 && send(fd, m.data(), m.size(), MSG_NOSIGNAL) > 0; i++) {
        }
        r.meet();
    }, 20000);
    t.pair("loops/room-for-one-event" + name, [mode](role& r, int fd) {
        awake_loop l(r, fd, EPOLLIN | mode);
        int other = eventfd(0, EFD_NONBLOCK);
        r.ep_ctl("", l.ep, EPOLL_CTL_ADD, other, EPOLLIN, 1);
        eventfd_write(other, 1);
        epoll_event e{};
        r.say("{}", epoll_wait(l.ep, &e, 1, 1000));
        r.say("of {}", uint64_t(e.data.u64));
        eventfd_t v;
        eventfd_read(other, &v);
        r.say("{}", epoll_wait(l.ep, &e, 1, settle_ms));
        r.meet();
        r.say("{}", epoll_wait(l.ep, &e, 1, 1000));
        r.say("of {}", uint64_t(e.data.u64));
        l.read_all("read");
    }, sends(2));
    t.pair("loops/part-is-left" + name, [mode](role& r, int fd) {
        awake_loop l(r, fd, EPOLLIN | mode);
        r.meet();
        r.bytes(fd, 4);
        l.turn("all", 1000);
        r.rd("a part", fd, 2);
        l.turn("the rest", mode == 0 ? 1000 : settle_ms);
        r.meet();
        r.bytes(fd, 6);
        l.turn("more", 1000);
        l.read_all("more");
        l.turn("nothing", settle_ms);
    }, sends(3));
    t.pair("loops/jump-out-of-the-wait" + name, [mode](role& r, int fd) {
        static sigjmp_buf back;
        awake_loop l(r, fd, EPOLLIN | mode);
        signal(SIGALRM, [](int) { siglongjmp(back, 1); });
        for (int i = 0; i < 3; i++) {
            if (sigsetjmp(back, 1) == 0) {
                itimerval soon{{0, 0}, {0, 20'000}};
                setitimer(ITIMER_REAL, &soon, nullptr);
                epoll_event e;
                epoll_wait(l.ep, &e, 1, patience_ms);
                r.say("not interrupted");
            }
            r.meet();
            l.turn("after the jump", 1000);
            l.read_all("after the jump");
        }
    }, sends(4));
    for (auto [how, end] :
         {std::pair{"close", ending::close}, {"shutdown", ending::shutdown}, {"reset", ending::reset}}) {
        t.add("loops/" + std::string(how) + "-while-awake" + name, [mode](role& r) {
            int fd = r.take(r.serve());
            awake_loop l(r, fd, EPOLLIN | EPOLLRDHUP | mode);
            r.meet();
            r.until(fd, POLLIN | POLLRDHUP);
            l.turn("end", 1000);
            l.read_all("end");
        }, sends_and_ends(end));
        t.add("loops/" + std::string(how) + "-and-only-reads" + name, [mode](role& r) {
            int fd = r.take(r.serve());
            awake_loop l(r, fd, EPOLLIN | mode);
            r.meet();
            char b[8];
            r.eventually("an end by recv alone", [&] {
                long n = recv(fd, b, sizeof b, 0);
                return n == 0 || (n < 0 && errno != EAGAIN);
            });
        }, sends_and_ends(end));
    }
}

}  // namespace

void add_loops(table& t) {
    for (auto [name, mode] : {std::pair<const char*, uint32_t>{"", 0}, {"-et", EPOLLET}}) {
        others_look(t, name, mode);
        registrations_change(t, name, mode);
        what_comes_with_it(t, name, mode);
    }
}

}  // namespace sockdiff
