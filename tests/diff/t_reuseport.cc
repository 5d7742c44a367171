// SO_REUSEPORT: several listeners of one port, in one process and in workers. The kernel shares connections out by a
// hash of their addresses; how many each gets is not printed, only that each gets its part.
#include "sockdiff.hh"

namespace sockdiff {
namespace {

constexpr int connects = 200;

// A listener of a group: port 0 begins a new one.
int member(role& r, int port = 0) {
    int fd = r.sock(SOCK_NONBLOCK), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    auto a = r.loopback(port);
    if (bind(fd, a.sa(), a.len) < 0 || listen(fd, 256) < 0)
        r.give_up("MEMBER FAILED " + errno_name(errno));
    return fd;
}

std::vector<int> group(role& r, int n) {
    std::vector<int> fds{member(r)};
    while (static_cast<int>(fds.size()) < n)
        fds.push_back(member(r, name_of(fds[0]).port()));
    return fds;
}

// Takes what waits in all of them, so many in all, and says whether each had a tenth of it.
void shared_out(role& r, const std::vector<int>& listeners, int in_all) {
    std::vector<int> got(listeners.size());
    int sum = 0;
    r.eventually("all connections", [&] {
        for (size_t i = 0; i < listeners.size(); i++) {
            while (accept(listeners[i], nullptr, nullptr) >= 0)
                got[i]++, sum++;
        }
        return sum >= in_all;
    });
    r.say("accepted {}", sum);
    for (int n : got)
        r.yes("each has its part", n * 10 >= in_all);
}

body dials(int n) {
    return [n](role& r) {
        int port = r.hear_num();
        for (int i = 0; i < n; i++)
            r.dial_briefly(port);
        r.meet();
        r.meet();
    };
}

void in_one_process(table& t) {
    for (int n : {2, 4}) {
        t.add(std::format("reuseport/{}-listeners", n), [n](role& r) {
            auto fds = group(r, n);
            r.tell_num(name_of(fds[0]).port());
            r.meet();
            shared_out(r, fds, connects);
            r.meet();
        }, dials(connects));
        t.add(std::format("reuseport/{}-listeners-dialled-by-themselves", n), [n](role& r) {
            auto fds = group(r, n);
            for (int i = 0; i < connects; i++)
                r.dial_briefly(name_of(fds[0]).port());
            shared_out(r, fds, connects);
        }, [](role&) {});
    }
    t.add("reuseport/every-connection-shows-at-once", [](role& r) {
        auto fds = group(r, 3);
        int port = name_of(fds[0]).port();
        tally seen;
        for (int i = 0; i < connects; i++) {
            int c = r.dial_briefly(port), found = 0;
            for (int fd : fds) {
                int s = accept(fd, nullptr, nullptr);
                if (s >= 0)
                    found++, close(s);
            }
            seen.add(std::to_string(found));
            close(c);
        }
        seen.show(r, "accepted");
    }, [](role&) {});
    t.add("reuseport/one-is-closed", [](role& r) {
        auto fds = group(r, 2);
        r.tell_num(name_of(fds[0]).port());
        r.meet();
        int kept = 0;
        for (pollfd p{fds[1], POLLIN, 0}; poll(&p, 1, 200) == 1;)
            kept += accept(fds[1], nullptr, nullptr) >= 0;
        close(fds[0]);  // what waits in it is reset
        r.tell_num(kept);
        r.meet();
        shared_out(r, {fds[1]}, connects);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        std::vector<int> fds;
        for (int i = 0; i < connects; i++)
            fds.push_back(r.dial_briefly(port));
        r.meet();
        int kept = r.hear_num(), reset = 0;
        r.eventually("resets", [&] {
            reset = 0;
            for (int fd : fds) {
                pollfd p{fd, POLLIN, 0};
                reset += poll(&p, 1, 0) == 1 && (p.revents & POLLERR);
            }
            return reset + kept == connects;
        });
        r.yes("some were reset", reset * 10 >= connects);
        r.say("accepted or reset {}", kept + reset);
        for (int i = 0; i < connects; i++)
            r.dial_briefly(port);
        r.meet();
        r.meet();
    });
    t.add("reuseport/one-is-added", [](role& r) {
        auto fds = group(r, 1);
        r.tell_num(name_of(fds[0]).port());
        r.meet();
        shared_out(r, fds, connects);
        fds.push_back(member(r, name_of(fds[0]).port()));
        r.meet();
        r.meet();
        shared_out(r, fds, connects);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        for (int i = 0; i < connects; i++)
            r.dial_briefly(port);
        r.meet();
        r.meet();
        for (int i = 0; i < connects; i++)
            r.dial_briefly(port);
        r.meet();
        r.meet();
    });
    t.add("reuseport/all-are-closed", [](role& r) {
        auto fds = group(r, 3);
        int port = name_of(fds[0]).port();
        std::vector<int> waiting;
        for (int i = 0; i < 30; i++)
            waiting.push_back(r.dial_briefly(port));
        for (int fd : fds)
            close(fd);
        tally seen;
        for (int c : waiting) {
            r.until(c, POLLHUP, 500);
            char b[4];
            seen.add(recv(c, b, 4, MSG_DONTWAIT) < 0 ? errno_name(errno) : "end");
        }
        seen.show(r, "those that waited");
        r.okay("connect", r.connect_to(r.sock(), port) ? 0 : -1);
        r.okay("bind", [&] {
            auto a = r.loopback(port);
            return bind(r.sock(), a.sa(), a.len);
        }());
    }, [](role&) {});
}

// Workers that each make a listener of their own, as nginx does with `reuseport`, or take one that the parent made.
struct worker_counts {
    int p[2];
    worker_counts() { syscall(SYS_pipe2, p, 0); }
    void say(char who) const { syscall(SYS_write, p[1], &who, 1); }
    std::vector<int> take(int in_all, int workers) const {
        std::vector<int> got(workers);
        for (char who; in_all > 0 && syscall(SYS_read, p[0], &who, 1) == 1; in_all--)
            got[static_cast<size_t>(who)]++;
        return got;
    }
};

void work(role& r, int listener, char who, const worker_counts& counts) {
    fcntl(listener, F_SETFL, 0);
    for (;;) {
        int s = r.take(listener);
        if (s < 0)
            _exit(1);
        r.put(s, "k");
        close(s);
        counts.say(who);
    }
}

void in_workers(table& t) {
    auto client = [](role& r) {
        int port = r.hear_num(), served = 0;
        for (int i = 0; i < connects; i++) {
            int fd = r.dial_briefly(port);
            char b;
            served += recv(fd, &b, 1, 0) == 1;
            close(fd);
        }
        r.say("served {}", served);
        r.meet();
    };
    for (int n : {2, 4}) {
        for (bool own : {false, true}) {
            t.add(std::format("reuseport/{}-workers-with-{}", n, own ? "their-own" : "the-parents"),
                  [=](role& r) {
                worker_counts counts;
                gate ready;
                std::vector<int> fds = group(r, own ? 1 : n);
                int port = name_of(fds[0]).port();
                std::vector<child_process> workers;
                for (int i = 0; i < n; i++)
                    workers.emplace_back([&] {
                        int fd = own ? member(r, port) : fds[i];
                        for (int other : fds) {
                            if (other != fd)
                                close(other);
                        }
                        ready.open();
                        work(r, fd, static_cast<char>(i), counts);
                    });
                for (int i = 0; i < n; i++)
                    ready.wait();
                for (int fd : fds)
                    close(fd);
                r.tell_num(port);
                auto got = counts.take(connects, n);
                r.meet();
                for (int k : got)
                    r.yes("each has its part", k * 10 >= connects);
                for (auto& w : workers) {
                    kill(w.pid, SIGKILL);
                    r.say("worker {}", w.wait());
                }
            }, client)
                .timeout(15000);
        }
    }
    t.add("reuseport/worker-dies-others-serve",
          [](role& r) {
        worker_counts counts;
        gate ready;
        int first = member(r), port = name_of(first).port();
        std::vector<child_process> workers;
        for (int i = 0; i < 3; i++)
            workers.emplace_back([&] {
                int fd = member(r, port);
                close(first);
                ready.open();
                work(r, fd, static_cast<char>(i), counts);
            });
        for (int i = 0; i < 3; i++)
            ready.wait();
        close(first);
        kill(workers[1].pid, SIGKILL);
        r.say("worker {}", workers[1].wait());
        r.tell_num(port);
        auto got = counts.take(connects, 3);
        r.meet();
        r.say("each has its part {} {} {}", got[0] * 10 >= connects, got[1] * 10 >= connects, got[2] * 10 >= connects);
        for (int i : {0, 2}) {
            kill(workers[i].pid, SIGKILL);
            r.say("worker {}", workers[i].wait());
        }
    }, client)
        .timeout(15000);
}

}  // namespace

void add_reuseport(table& t) {
    in_one_process(t);
    in_workers(t);
}

}  // namespace sockdiff
