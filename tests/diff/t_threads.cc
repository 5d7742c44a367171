// Threads on one socket; closing what another thread waits for.
#include "sockdiff.hh"

namespace sockdiff {
namespace {

void sharing(table& t) {
    t.pair("threads/reader-and-writer", [](role& r, int fd) {
        std::thread w([&] { r.put(fd, pattern(1 << 20, 1)); });
        r.get("get", fd, 1 << 20);
        w.join();
    }, [](role& r, int fd) {
        std::thread w([&] { r.put(fd, pattern(1 << 20, 2)); });
        r.get("get", fd, 1 << 20);
        w.join();
    });
    t.pair("threads/several-readers", [](role& r, int fd) {
        std::atomic<long> total = 0;
        std::atomic<uint64_t> sum = 0;
        std::vector<std::thread> v;
        std::atomic<int> ends = 0;
        for (int i = 0; i < 4; i++)
            v.emplace_back([&] {
                unsigned char b[333];
                long n;
                while ((n = recv(fd, b, sizeof b, 0)) > 0) {
                    total += n;
                    for (long k = 0; k < n; k++)
                        sum += b[k];
                }
                ends += n == 0;
            });
        for (auto& th : v)
            th.join();
        r.say("total {} sum {} ends {}", total.load(), sum.load(), ends.load());
    }, [](role& r, int fd) {
        r.put(fd, pattern(300000, 4));
        shutdown(fd, SHUT_WR);
    });
    t.pair("threads/several-writers-whole-messages", [](role& r, int fd) {
        // Blocking sends of one buffer are not mixed with each other on TCP.
        std::vector<std::thread> v;
        for (int i = 0; i < 4; i++)
            v.emplace_back([&, i] {
                std::string m(1000, static_cast<char>('a' + i));
                for (int k = 0; k < 50; k++) {
                    if (send(fd, m.data(), m.size(), MSG_NOSIGNAL) != 1000)
                        r.say("short send");
                }
            });
        for (auto& th : v)
            th.join();
        shutdown(fd, SHUT_WR);
    }, [](role& r, int fd) {
        int count[4] = {}, mixed = 0;
        char b[1000];
        while (recv(fd, b, 1000, MSG_WAITALL) == 1000) {
            bool same = true;
            for (char c : b)
                same &= c == b[0];
            mixed += !same;
            if (b[0] >= 'a' && b[0] < 'e')
                count[b[0] - 'a']++;
        }
        r.say("{} {} {} {} mixed {}", count[0], count[1], count[2], count[3], mixed);
    });
    t.pair("threads/waitall-readers-get-whole-records", [](role& r, int fd) {
            // recv(MSG_WAITALL) of two threads: each record comes whole to one of them? Counted in
            // bytes only.
        std::atomic<long> total = 0;
        std::vector<std::thread> v;
        for (int i = 0; i < 2; i++)
            v.emplace_back([&] {
                char b[100];
                long n;
                while ((n = recv(fd, b, 100, MSG_WAITALL)) > 0)
                    total += n;
            });
        for (auto& th : v)
            th.join();
        r.say("{}", total.load());
    }, [](role& r, int fd) {
        for (int i = 0; i < 100; i++)
            r.put(fd, pattern(100, i));
        shutdown(fd, SHUT_WR);
    });
    t.pair("threads/two-polls-one-socket", [](role& r, int fd) {
        std::atomic<int> woken = 0;
        std::vector<std::thread> v;
        std::atomic<int> tid[2] = {};
        for (int i = 0; i < 2; i++)
            v.emplace_back([&, i] {
                tid[i] = my_tid();
                pollfd p{fd, POLLIN, 0};
                woken += poll(&p, 1, 3000) == 1;
            });
        for (auto& x : tid)
            wait_until_blocked(x);
        r.meet();
        for (auto& th : v)
            th.join();
        r.say("woken {}", woken.load());
        r.rd("recv", fd, 4);
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "x");
    });
    t.pair("threads/one-byte-wakes-one-reader", [](role& r, int fd) {
        std::atomic<int> got = 0, ended = 0;
        std::atomic<int> tid[3] = {};
        std::vector<std::thread> v;
        for (int i = 0; i < 3; i++)
            v.emplace_back([&, i] {
                tid[i] = my_tid();
                char c;
                long n = recv(fd, &c, 1, 0);
                if (n == 1)
                    got++;
                if (n == 0)
                    ended++;
            });
        for (auto& x : tid)
            wait_until_blocked(x);
        r.meet();
        r.eventually("one", [&] { return got > 0; });
        nap(settle_ms);
        r.say("got {} ended {}", got.load(), ended.load());
        r.meet();
        for (auto& th : v)
            th.join();
        r.say("got {} ended {}", got.load(), ended.load());
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "x");
        r.meet();
        shutdown(fd, SHUT_WR);
    });
    t.add("threads/accept-from-many", [](role& r) {
        int fd = r.serve(64);
        std::atomic<int> taken = 0, served = 0;
        std::vector<std::thread> v;
        for (int i = 0; i < 6; i++)
            v.emplace_back([&] {
                for (;;) {
                    int c = accept(fd, nullptr, nullptr);
                    if (c < 0)
                        return;
                    taken++;
                    char b[4];
                    served += recv(c, b, 4, MSG_WAITALL) == 4 && send(c, b, 4, MSG_NOSIGNAL) == 4;
                    close(c);
                }
            });
        r.meet();
        shutdown(fd, SHUT_RDWR);
        for (auto& th : v)
            th.join();
        r.say("taken {} served {}", taken.load(), served.load());
    }, [](role& r) {
        int port = r.hear_num();
        std::atomic<int> good = 0;
        std::vector<std::thread> v;
        for (int i = 0; i < 5; i++)
            v.emplace_back([&, i] {
                for (int k = 0; k < 20; k++) {
                    int fd = r.dial(port);
                    int x = i * 100 + k, y = -1;
                    send(fd, &x, 4, MSG_NOSIGNAL);
                    good += recv(fd, &y, 4, MSG_WAITALL) == 4 && x == y;
                    close(fd);
                }
            });
        for (auto& th : v)
            th.join();
        r.say("good {}", good.load());
        r.meet();
    });
    t.add("threads/listen-here-accept-there-use-elsewhere", [](role& r) {
        int fd = r.serve();
        int c = -1;
        std::thread([&] { c = r.take(fd); }).join();
        std::thread([&] { r.get("get", c, 4); }).join();
        std::thread([&] {
            int ep = epoll_create1(0);
            r.ep_ctl("add", ep, EPOLL_CTL_ADD, c, EPOLLIN | EPOLLET, 1);
            r.meet();
            r.ep_is("event", ep, EPOLLIN);
        }).join();
        r.put(c, "pong");
        r.meet();
    }, [](role& r) {
        int fd = r.dial(r.hear_num());
        r.put(fd, "ping");
        r.meet();
        r.put(fd, "more");
        r.get("get", fd, 4);
        r.meet();
    });
    t.pair("threads/errno-is-per-thread", [](role& r, int fd) {
        std::atomic<bool> stop = false;
        std::atomic<int> wrong = 0;
        std::thread th([&] {
            char c;
            while (!stop)
                wrong += recv(fd, &c, 1, MSG_DONTWAIT) != -1 || errno != EAGAIN;
        });
        for (int i = 0; i < 2000; i++) {
            errno = 12345;
            if (send(fd, "x", 1, MSG_NOSIGNAL) == 1)
                wrong += errno != 12345;
        }
        stop = true;
        th.join();
        r.say("wrong {}", wrong.load());
    }, [](role& r, int fd) { r.get("get", fd, 2000); });
}

void closing(table& t) {
    t.pair("threads/close-while-recv-blocks", [](role& r, int fd) {
        std::atomic<int> tid = 0;
        std::string out;
        std::thread th([&] {
            tid = my_tid();
            char b[8];
            long n = recv(fd, b, 8, 0);
            out = n < 0 ? errno_name(errno) : std::format("{} {}", n, shown({b, static_cast<size_t>(n)}));
        });
        wait_until_blocked(tid);
        r.okay("close", close(fd));
        nap(settle_ms);
        r.say("still blocked {}", out.empty());
        r.meet();
        th.join();
        r.say("recv: {}", out);
    }, [](role& r, int fd) {
        r.meet();
        r.wr("send", fd, "data");
        r.eof("end", fd);
    });
    t.pair("threads/close-while-poll-blocks", [](role& r, int fd) {
        std::atomic<int> tid = 0;
        std::atomic<bool> done = false;
        int n = -2;
        pollfd p{fd, POLLIN, 0};
        std::thread th([&] {
            tid = my_tid();
            n = poll(&p, 1, 4000);
            done = true;
        });
        wait_until_blocked(tid);
        r.okay("close", close(fd));
        nap(settle_ms);
        r.say("still blocked {}", !done);
        r.meet();
        th.join();
        r.say("poll {} {}", n, poll_mask(p.revents));
    }, [](role& r, int fd) {
        r.meet();
        r.wr("send", fd, "data");
    });
    t.pair("threads/close-while-epoll-waits", [](role& r, int fd) {
        std::atomic<int> tid = 0;
        int n = -2, ep = epoll_create1(0);
        r.ep_ctl("", ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
        std::thread th([&] {
            tid = my_tid();
            epoll_event e;
            n = epoll_wait(ep, &e, 1, 200);
        });
        wait_until_blocked(tid);
        r.okay("close", close(fd));
        r.meet();
        th.join();
        r.say("epoll_wait {}", n);
    }, [](role& r, int fd) {
        r.meet();
        r.eof("end", fd);
    });
    t.pair("threads/dup2-over-a-blocked-recv", [](role& r, int fd) {
        std::atomic<int> tid = 0;
        std::string out;
        std::thread th([&] {
            tid = my_tid();
            char b[8];
            long n = recv(fd, b, 8, 0);
            out = n < 0 ? errno_name(errno) : std::format("{} {}", n, shown({b, static_cast<size_t>(n)}));
        });
        wait_until_blocked(tid);
        int f = open("/dev/null", O_RDWR);
        r.yes("dup2", dup2(f, fd) == fd);
        r.meet();
        th.join();
        r.say("recv: {}", out);
    }, [](role& r, int fd) {
        r.meet();
        r.wr("send", fd, "data");
        r.eof("end", fd);
    });
    t.add("threads/open-close-in-parallel", [](role& r) {
        int fd = r.serve(64);
        std::thread acceptor([&] {
            for (int i = 0; i < 200; i++) {
                int c = r.take(fd);
                char b;
                if (recv(c, &b, 1, 0) == 1)
                    send(c, &b, 1, MSG_NOSIGNAL);
                close(c);
            }
        });
        acceptor.join();
        r.meet();
    }, [](role& r) {
        // Numbers are reused across threads all the time; nobody may see another's connection.
        int port = r.hear_num();
        std::atomic<int> wrong = 0;
        std::vector<std::thread> v;
        for (int i = 0; i < 4; i++)
            v.emplace_back([&, i] {
                for (int k = 0; k < 50; k++) {
                    int fd = r.dial(port);
                    char c = static_cast<char>(i * 50 + k), d = 0;
                    send(fd, &c, 1, MSG_NOSIGNAL);
                    wrong += recv(fd, &d, 1, 0) != 1 || c != d;
                    close(fd);
                    int f = open("/dev/null", O_RDONLY);
                    wrong += read(f, &d, 1) != 0;
                    close(f);
                }
            });
        for (auto& th : v)
            th.join();
        r.say("wrong {}", wrong.load());
        r.meet();
    });
    t.pair("threads/thread-exit-does-not-close", [](role& r, int fd) {
        std::thread([&] { r.put(fd, "from a thread "); }).join();
        r.put(fd, "from main");
        r.get("get", fd, 2);
    }, [](role& r, int fd) {
        r.get("get", fd, 23);
        r.put(fd, "ok");
    });
    t.pair("threads/fork-while-threads-use-sockets", [](role& r, int fd) {
        std::atomic<bool> stop = false;
        std::thread th([&] {
            while (!stop) {
                r.put(fd, "x");
                nap(0);
            }
        });
        int bad = 0;
        for (int i = 0; i < 10; i++) {
            child_process c([&] {
                char b;
                // The child may use the library at once, whatever lock the other thread had.
                if (recv(fd, &b, 1, MSG_DONTWAIT) != -1 || errno != EAGAIN)
                    _exit(1);
            });
            bad += c.wait() != "exit 0";
        }
        stop = true;
        th.join();
        shutdown(fd, SHUT_WR);
        r.say("bad {}", bad);
    }, [](role& r, int fd) {
        char b[4096];
        long n, strange = 0;
        while ((n = recv(fd, b, sizeof b, 0)) > 0) {
            for (long i = 0; i < n; i++)
                strange += b[i] != 'x';
        }
        r.say("end {} strange {}", n, strange);
    });
}

}  // namespace

void add_threads(table& t) {
    sharing(t);
    closing(t);
}

}  // namespace sockdiff
