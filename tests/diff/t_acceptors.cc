// One listener, several processes: stopped, forked before and after a connect, waiting together; and what an accepted
// socket says about who is on the other side.
#include "sockdiff.hh"

namespace sockdiff {
namespace {

void nobody(role&) {}

void serve_one(role& r, int s, std::string_view by) {
    char b[8];
    long n = recv(s, b, sizeof b, 0);
    r.put(s, n < 0 ? errno_name(errno) : std::string(b, static_cast<size_t>(n)) + " by " + std::string(by));
    close(s);
}

// Asks a number of times, one after the other; what was answered, and how often.
body asks(int times) {
    return [times](role& r) {
        int port = r.hear_num();
        tally answers;
        for (int i = 0; i < times; i++) {
            int fd = r.dial_briefly(port);
            r.put(fd, "ask");
            char b[64];
            long n = recv(fd, b, sizeof b, MSG_WAITALL);
            answers.add(n < 0 ? errno_name(errno) : shown({b, static_cast<size_t>(n)}));
            close(fd);
        }
        answers.show(r, "answers");
        r.meet();
    };
}

void stopped(table& t) {
    t.add("acceptors/stopped-process", [](role& r) {
        int fd = r.serve();
        gate ready, go;
        child_process child([&] {
            ready.open();
            go.wait();
            r.meet();
            int s = r.take(fd);
            r.get("get", s, 16);
            r.put(s, "late");
            r.eof("end", s);
        });
        ready.wait();
        kill(child.pid, SIGSTOP);
        close(fd);
        int st = 0;
        waitpid(child.pid, &st, WUNTRACED);
        r.tell(WIFSTOPPED(st) ? "stopped" : "not stopped");
        r.hear();
        go.open();
        kill(child.pid, SIGCONT);
        r.say("child {}", child.wait());
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        r.say("{}", r.hear());
        int fd = r.sock();
        r.okay("connect", r.connect_to(fd, port) ? 0 : -1);
        r.put(fd, "while it stopped");
        int gone = r.dial(port);
        r.put(gone, "gone");
        close(gone);
        r.tell("go on");
        r.meet();
        r.get("get", fd, 4);
        shutdown(fd, SHUT_WR);
        r.meet();
    });
    t.add("acceptors/one-of-two-is-stopped", [](role& r) {
        int fd = r.listening(64);
        auto serve = [&](std::string_view name) {
            for (;;)
                serve_one(r, r.take(fd), name);
        };
        child_process stops([&] { serve("the one that stopped"); });
        nap(settle_ms);
        kill(stops.pid, SIGSTOP);
        int st = 0;
        waitpid(stops.pid, &st, WUNTRACED);
        child_process goes([&] { serve("the other"); });
        r.tell_num(name_of(fd).port());
        r.meet();
        for (auto& c : {stops, goes})
            kill(c.pid, SIGKILL);
        r.say("children {}, {}", stops.wait(), goes.wait());
    }, asks(40));
}

void around_fork(table& t) {
    t.add("acceptors/fork-between-connect-and-accept", [](role& r) {
        int fd = r.waiting(), port = name_of(fd).port();
        std::vector<int> clients;
        for (int i = 0; i < 4; i++) {
            clients.push_back(r.dial(port));
            r.put(clients.back(), "before");
        }
        child_process child([&] {
            for (int i = 0; i < 2; i++)
                serve_one(r, r.accept_late(fd), "child");
        });
        r.say("child {}", child.wait());
        for (int i = 0; i < 2; i++)
            serve_one(r, r.accept_late(fd), "parent");
        for (int c : clients)
            r.get("get", c, 64);
        r.ret("nothing is left", accept(fd, nullptr, nullptr));
    }, nobody);
    t.add("acceptors/child-accepts-parent-has-closed", [](role& r) {
        int fd = r.listening(), port = name_of(fd).port();
        int c = r.dial(port);
        r.put(c, "before");
        gate closed;
        child_process child([&] {
            close(c);
            closed.wait();
            serve_one(r, r.take(fd), "child");
            serve_one(r, r.take(fd), "child");
        });
        close(fd);
        closed.open();
        int d = r.dial(port);
        r.put(d, "after");
        r.get("get", c, 64);
        r.get("get", d, 64);
        r.say("child {}", child.wait());
        r.okay("connect when it has gone", r.connect_to(r.sock(), port) ? 0 : -1);
    }, nobody);
    t.add("acceptors/parent-accepts-child-has-closed", [](role& r) {
        int fd = r.listening(), port = name_of(fd).port();
        tally ends;
        for (int i = 0; i < 5; i++) {
            int c = r.dial(port);
            r.put(c, "x");
            child_process child([&] { i % 2 ? void(close(fd)) : exit(0); });
            ends.add(child.wait());
            serve_one(r, r.take(fd), "parent");
            r.get("get", c, 64);
            close(c);
        }
        ends.show(r, "children");
    }, nobody);
    t.add("acceptors/child-dies-between-connect-and-accept", [](role& r) {
        int fd = r.listening(), port = name_of(fd).port();
        gate listening;
        child_process child([&] {
            pollfd p{fd, POLLIN, 0};
            poll(&p, 1, 2000);
            listening.open();
            pause();
        });
        int c = r.dial(port);
        r.put(c, "x");
        listening.wait();
        kill(child.pid, SIGKILL);
        r.say("child {}", child.wait());
        serve_one(r, r.take(fd), "parent");
        r.get("get", c, 64);
    }, nobody);
    t.add("acceptors/accepted-before-fork-used-after", [](role& r) {
        int fd = r.listening(), port = name_of(fd).port();
        int c = r.dial(port), s = r.take(fd);
        child_process child([&] {
            close(c);
            r.get("child", s, 3);
            r.put(s, "from the child");
        });
        close(s);
        r.put(c, "abc");
        r.say("child {}", child.wait());
        r.get("parent", c, 64);
    }, nobody);
    t.add("acceptors/nonblock-set-in-the-child-is-for-the-parent", [](role& r) {
        int fd = r.listening();
        child_process child([&] { fcntl(fd, F_SETFL, O_NONBLOCK); });
        child.wait();
        r.ret("accept", accept(fd, nullptr, nullptr));
    }, nobody);
}

// So many connects at once, each asks and is answered exactly once.
body asks_at_once(int times) {
    return [times](role& r) {
        int port = r.hear_num();
        std::vector<int> fds;
        for (int i = 0; i < times; i++)
            fds.push_back(r.dial_briefly(port));
        for (int fd : fds)
            r.put(fd, "ask");
        tally answers;
        for (int fd : fds) {
            char b[64];
            long n = recv(fd, b, sizeof b, MSG_WAITALL);
            answers.add(n < 0 ? errno_name(errno) : shown({b, static_cast<size_t>(n)}));
        }
        answers.show(r, "answers");
        r.meet();
    };
}

// So many processes serve one listener until they are killed. Each writes a byte for each connection it has served.
class servers {
public:
    servers(role& r, int n, const std::function<int()>& accept_one) : _r(r) {
        for (int i = 0; i < n; i++) {
            _children.emplace_back([&] {
                for (;;) {
                    int s = accept_one();
                    if (s < 0)
                        continue;
                    serve_one(r, s, "one of them");
                    _served.open();
                }
            });
        }
    }
    void end(int served) {
        for (int i = 0; i < served; i++)
            _served.wait();
        _r.meet();
        for (auto& c : _children) {
            kill(c.pid, SIGKILL);
            _r.say("child {}", c.wait());
        }
        pollfd p{_served.p[0], POLLIN, 0};
        _r.say("served more than once: {}", poll(&p, 1, 0));
    }

private:
    role& _r;
    gate _served;
    std::vector<child_process> _children;
};

void together(table& t) {
    constexpr int connects = 60;
    t.add("acceptors/several-block-in-accept", [](role& r) {
        int fd = r.listening(128);
        servers s(r, 4, [fd] { return accept(fd, nullptr, nullptr); });
        r.tell_num(name_of(fd).port());
        s.end(connects);
    }, asks_at_once(connects));
    t.add("acceptors/several-poll-then-accept", [](role& r) {
        int fd = r.waiting(128);
        servers s(r, 4, [fd] {
            pollfd p{fd, POLLIN, 0};
            poll(&p, 1, 1000);
            return accept4(fd, nullptr, nullptr, SOCK_CLOEXEC);
        });
        r.tell_num(name_of(fd).port());
        s.end(connects);
    }, [](role& r) {
        // An accepted socket of these is blocking: the listener's flag is not inherited.
        asks_at_once(connects)(r);
    });
    t.add("acceptors/several-wait-with-epollexclusive", [](role& r) {
        int fd = r.waiting(128);
        servers s(r, 2, [fd] {
            static int ep = -1;
            epoll_event e{};
            if (ep < 0) {
                ep = epoll_create1(0);
                e.events = EPOLLIN | EPOLLEXCLUSIVE;
                epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
            }
            epoll_wait(ep, &e, 1, 1000);
            return accept(fd, nullptr, nullptr);
        });
        r.tell_num(name_of(fd).port());
        s.end(connects);
    }, asks_at_once(connects));
    t.add("acceptors/several-share-an-epoll-set", [](role& r) {
        int fd = r.waiting(128), ep = epoll_create1(0);
        r.ep_ctl("", ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
        servers s(r, 3, [=] {
            epoll_event e{};
            epoll_wait(ep, &e, 1, 1000);
            return accept(fd, nullptr, nullptr);
        });
        r.tell_num(name_of(fd).port());
        s.end(connects);
    }, asks_at_once(connects));
    t.add("acceptors/one-after-the-other", [](role& r) {
        int fd = r.listening(128);
        servers s(r, 4, [fd] { return accept(fd, nullptr, nullptr); });
        r.tell_num(name_of(fd).port());
        s.end(connects);
    }, asks(connects));
    t.add("acceptors/many-processes-connect-at-once", [](role& r) {
        int fd = r.listening(128);
        servers s(r, 2, [fd] { return accept(fd, nullptr, nullptr); });
        r.tell_num(name_of(fd).port());
        s.end(40);
    }, [](role& r) {
        int port = r.hear_num();
        std::vector<child_process> children;
        for (int i = 0; i < 4; i++)
            children.emplace_back([&] {
                for (int k = 0; k < 10; k++) {
                    int fd = r.dial_briefly(port);
                    r.put(fd, "ask");
                    char b[64];
                    if (recv(fd, b, sizeof b, MSG_WAITALL) != 18)
                        _exit(1);
                    close(fd);
                }
            });
        tally ends;
        for (auto& c : children)
            ends.add(c.wait());
        ends.show(r, "children");
        r.meet();
    });
}

void facts(table& t) {
    t.pair("acceptors/credentials", [](role& r, int fd) {
        struct ucred u{77, 77, 77};
        socklen_t n = sizeof u;
        r.ret("SO_PEERCRED", getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &n));
        r.say("{} bytes: {} {} {}", n, u.pid, static_cast<int>(u.uid), static_cast<int>(u.gid));
        char b[256];
        for (auto [name, option] : {std::pair{"SO_PEERGROUPS", 59}, {"SO_PEERPIDFD", 77}, {"SO_PEERSEC", 31}}) {
            n = sizeof b;
            r.ret(name, getsockopt(fd, SOL_SOCKET, option, b, &n));
        }
        for (auto [name, option] : {std::pair{"SO_PASSCRED", SO_PASSCRED},
                                    {"SO_DOMAIN", SO_DOMAIN},
                                    {"SO_PROTOCOL", SO_PROTOCOL},
                                    {"SO_TYPE", SO_TYPE},
                                    {"SO_ACCEPTCONN", SO_ACCEPTCONN}}) {
            r.say("{} {}", name,
                  option == SO_DOMAIN ? r.opt(fd, SOL_SOCKET, option) == r.family : r.opt(fd, SOL_SOCKET, option));
        }
    }, [](role&, int) {});
    t.add("acceptors/facts-of-a-listener", [](role& r) {
        int fd = r.waiting();
        for (auto [name, option] : {std::pair{"SO_DOMAIN", SO_DOMAIN},
                                    {"SO_PROTOCOL", SO_PROTOCOL},
                                    {"SO_TYPE", SO_TYPE},
                                    {"SO_ACCEPTCONN", SO_ACCEPTCONN},
                                    {"SO_ERROR", SO_ERROR}}) {
            r.say("{} {}", name,
                  option == SO_DOMAIN ? r.opt(fd, SOL_SOCKET, option) == r.family : r.opt(fd, SOL_SOCKET, option));
        }
        struct stat st{};
        r.ret("fstat", fstat(fd, &st));
        r.say("socket {}", S_ISSOCK(st.st_mode));
        r.rd("recv", fd, 4);
        r.wr("send", fd, "x");
        endpoint e;
        r.okay("getpeername", getpeername(fd, e.sa(), &e.len));
        r.okay("connect", r.connect_to(fd, name_of(fd).port()) ? 0 : -1);
    }, nobody);
    t.add("acceptors/bad-arguments", [](role& r) {
        int fd = r.waiting(), port = name_of(fd).port();
        endpoint e;
        r.ret("bad flags, nothing waits", accept4(fd, e.sa(), &e.len, 0x40));
        r.ret("no length, nothing waits", accept(fd, e.sa(), nullptr));
        r.ret("closed", accept(777, e.sa(), &e.len));
        r.ret("negative", accept(-1, e.sa(), &e.len));
        int c = r.dial(port);
        r.until(fd, POLLIN);
        r.ret("bad flags", accept4(fd, e.sa(), &e.len, 0x40));
        r.okay("no address, no length", accept(fd, nullptr, nullptr));
        r.put(c, "still alive");
        // The kernel gives up the connection whose address it cannot write.
        int d = r.dial(port);
        r.until(fd, POLLIN);
        r.ret("no length", accept(fd, e.sa(), nullptr));
        r.until(d, POLLRDHUP);
        r.rd("recv", d, 4);
        r.ret("nothing is left", accept(fd, nullptr, nullptr));
    }, nobody);
    t.add("acceptors/bad-address-pointer", [](role& r) {
        int fd = r.waiting();
        endpoint e;
        r.ret("bad length, nothing waits", accept(fd, e.sa(), reinterpret_cast<socklen_t*>(8)));
        r.ret("bad address, nothing waits", accept(fd, reinterpret_cast<sockaddr*>(8), &e.len));
        int d = r.dial(name_of(fd).port());
        r.until(fd, POLLIN);
        r.ret("accept", accept(fd, reinterpret_cast<sockaddr*>(8), &e.len));
        r.until(d, POLLRDHUP);
        r.rd("recv", d, 4);
        r.ret("nothing is left", accept(fd, nullptr, nullptr));
    }, nobody);
}

}  // namespace

void add_acceptors(table& t) {
    stopped(t);
    around_fork(t);
    together(t);
    facts(t);
}

}  // namespace sockdiff
