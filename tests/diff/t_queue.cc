// Connections that wait in a listener: their order, a full backlog, those that end before accept, a listener that goes,
// and TCP_DEFER_ACCEPT.
#include "sockdiff.hh"

#include <set>

namespace sockdiff {
namespace {

constexpr int rounds = 50;

void nobody(role&) {}

std::string host_and_port(const endpoint& e) { return std::format("{} {}", e.host(), e.port()); }

// Accepts one; its peer's address.
std::string accepted_from(int listener) {
    endpoint from;
    int fd = accept(listener, from.sa(), &from.len);
    return fd < 0 ? errno_name(errno) : host_and_port(from);
}

// Accepts as many as there are names: each must come from the one whose turn it is.
void in_order(role& r, int listener, const std::vector<std::string>& names) {
    int same = 0;
    for (auto& name : names) {
        r.until(listener, POLLIN);
        auto seen = accepted_from(listener);
        same += seen == name;
        if (seen != name)
            r.say("not {} but {}", name, seen);
    }
    r.say("in order, with their names: {} of {}", same, names.size());
    r.say("then {}", accepted_from(listener));
}

void order(table& t) {
    t.add("queue/order-of-one-thread", [](role& r) {
        int fd = r.waiting(64), port = name_of(fd).port();
        std::vector<std::string> names;
        for (int i = 0; i < 30; i++) {
            int c = i % 3 == 1 ? r.bound() : r.sock(i % 3 == 2 ? SOCK_NONBLOCK : 0);
            r.connect_to(c, port);
            names.push_back(host_and_port(name_of(c)));
        }
        in_order(r, fd, names);
    }, nobody);
    t.add("queue/order-of-two-processes", [](role& r) {
        int fd = r.serve(64);
        std::vector<std::string> names;
        for (int i = 0; i < 20; i++)
            names.push_back(r.hear());
        fcntl(fd, F_SETFL, O_NONBLOCK);
        in_order(r, fd, names);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        gate mine, yours;
        child_process child([&] {
            for (int i = 0; i < 10; i++) {
                yours.wait();
                r.tell(host_and_port(name_of(r.dial(port))));
                mine.open();
            }
            r.meet();
        });
        for (int i = 0; i < 10; i++) {
            r.tell(host_and_port(name_of(r.dial(port))));
            yours.open();
            mine.wait();
        }
        r.say("child {}", child.wait());
    });
    t.add("queue/order-of-several-addresses",
          [](role& r) {
        int fd = r.sock(SOCK_NONBLOCK);
        auto any = r.wildcard();
        bind(fd, any.sa(), any.len);
        listen(fd, 16);
        std::vector<std::string> names;
        for (int i = 1; i <= 9; i++) {
            int c = r.sock();
            auto from = make_endpoint(AF_INET, std::format("127.0.0.{}", i).c_str(), 0);
            auto to = make_endpoint(AF_INET, std::format("127.1.1.{}", i).c_str(), name_of(fd).port());
            bind(c, from.sa(), from.len);
            r.okay("connect", connect(c, to.sa(), to.len));
            names.push_back(host_and_port(name_of(c)));
        }
        in_order(r, fd, names);
    }, nobody)
        .only(AF_INET);
    t.add("queue/names-on-both-sides", [](role& r) {
        int fd = r.waiting(), port = name_of(fd).port(), same = 0;
        for (int i = 0; i < rounds; i++) {
            int c = r.dial(port);
            endpoint from;
            r.until(fd, POLLIN);
            int s = accept(fd, from.sa(), &from.len);
            same += from == name_of(c) && peer_of(s) == from && name_of(s) == peer_of(c) && name_of(s) == name_of(fd);
            close(c);
            close(s);
        }
        r.say("the same names: {} of {}", same, rounds);
    }, nobody);
}

// What comes out of an accepted connection whose other end has gone, without waiting.
std::string rest_of(int fd) {
    std::string text;
    for (char b[64];;) {
        long n = recv(fd, b, sizeof b, MSG_DONTWAIT);
        if (n <= 0)
            return text + (n == 0 ? ", end" : ", " + errno_name(errno));
        text.append(b, static_cast<size_t>(n));
    }
}

void gone_before_accept(table& t) {
    struct way {
        const char* name;
        void (*go)(int fd);
    };
    static const way ways[] = {
        {"closed", [](int fd) { close(fd); }},
        {"shut", [](int fd) { shutdown(fd, SHUT_WR); }},
        {"reset",
         [](int fd) {
        struct linger l{1, 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
        close(fd);
    }},
    };
    for (auto& w : ways) {
        t.add(std::format("queue/{}-before-accept", w.name), [&w](role& r) {
            int fd = r.waiting(), port = name_of(fd).port();
            tally listener, accepted, seen;
            for (int i = 0; i < rounds; i++) {
                int c = r.dial(port);
                if (i % 2)
                    r.put(c, "sent");
                w.go(c);
                listener.add(std::to_string(r.until(fd, POLLIN)));
                endpoint from;
                int s = accept(fd, from.sa(), &from.len);
                accepted.add(s < 0 ? errno_name(errno) : from.host());
                r.until(s, POLLRDHUP);
                seen.add(rest_of(s));
                close(s);
                close(c);
            }
            listener.show(r, "readable");
            accepted.show(r, "accept");
            seen.show(r, "then");
        }, nobody);
    }
    t.add("queue/client-killed-before-accept", [](role& r) {
        int fd = r.serve();
        r.meet();
        r.meet();
        for (int i = 0; i < 3; i++) {
            int s = r.take(fd);
            r.until(s, POLLRDHUP);
            r.say("{}", rest_of(s));
        }
    }, [](role& r) {
        int port = r.hear_num();
        gate dialled;
        child_process child([&] {
            for (auto text : {"one", "two", ""})
                r.put(r.dial(port), text);
            dialled.open();
            pause();
        });
        dialled.wait();
        r.meet();
        kill(child.pid, SIGKILL);
        child.wait();
        r.meet();
    });
}

std::string number(int i) { return std::format("{:04}", i); }

// Accepts so many and reads the four bytes of each: all different, as the clients sent them.
void serve_numbers(role& r, int fd, int n) {
    std::set<std::string> seen;
    for (int i = 0; i < n; i++) {
        int s = r.take(fd);
        char b[4];
        if (recv(s, b, 4, MSG_WAITALL) == 4)
            seen.insert({b, 4});
        r.put(s, "ok");
    }
    std::set<std::string> wanted;
    for (int i = 0; i < n; i++)
        wanted.insert(number(i));
    r.yes(std::format("all {} served, each with its own data", n), seen == wanted);
}

void backlog(table& t) {
    t.add("queue/backlog-of-one-nonblocking", [](role& r) {
        int fd = r.serve(1);
        r.meet();
        nap(100);
        serve_numbers(r, fd, 8);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num(), answered = 0;
        std::vector<int> fds;
        for (int i = 0; i < 8; i++) {
            fds.push_back(r.sock(SOCK_NONBLOCK));
            r.connect_to(fds.back(), port);
        }
        r.meet();
        for (int i = 0; i < 8; i++) {
            r.until(fds[i], POLLOUT, 15000);
            r.put(fds[i], number(i));
        }
        for (int fd : fds) {
            r.until(fd, POLLIN, 15000);
            char b[2];
            answered += recv(fd, b, 2, MSG_WAITALL) == 2;
        }
        r.say("answered {}", answered);
        r.meet();
    }).timeout(30000);
    t.add("queue/backlog-of-one-blocking", [](role& r) {
        int fd = r.serve(1);
        nap(100);
        serve_numbers(r, fd, 6);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        std::vector<child_process> children;
        for (int i = 0; i < 6; i++)
            children.emplace_back([&] {
                int fd = r.dial(port);
                r.put(fd, number(i));
                char b[2];
                if (recv(fd, b, 2, MSG_WAITALL) != 2)
                    _exit(1);
            });
        tally ends;
        for (auto& c : children)
            ends.add(c.wait());
        ends.show(r, "children");
        r.meet();
    }).timeout(30000);
    t.add("queue/backlog-full-then-drained", [](role& r) {
        int fd = r.serve(1);
        r.meet();
        r.meet();
        serve_numbers(r, fd, 3);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        for (int i = 0; i < 2; i++)
            r.put(r.dial(port), number(i));
        int third = r.sock(SOCK_NONBLOCK);
        r.ret("connect", r.connect_to(third, port) ? 0 : -1);
        r.meet();
        r.poll_now("not connected", third, POLLIN | POLLOUT);
        r.meet();
        r.until(third, POLLOUT, 8000);
        r.put(third, number(2));
        r.until(third, POLLIN, 8000);
        r.get("get", third, 2);
        r.meet();
    }).timeout(15000);
    t.add("queue/backlog-of-zero", [](role& r) {
        int fd = r.waiting(0), port = name_of(fd).port();
        tally seen;
        for (int i = 0; i < rounds; i++) {
            int c = r.dial(port), s = r.accept_late(fd);
            r.put(c, "x");
            r.until(s, POLLIN);
            seen.add(rest_of(s));
            close(s);
            close(c);
        }
        seen.show(r, "served");
    }, nobody);
    t.add("queue/backlog-grows-with-listen", [](role& r) {
        int fd = r.waiting(1), port = name_of(fd).port();
        for (int i = 0; i < 2; i++)
            r.put(r.dial(port), number(i));
        r.okay("listen", listen(fd, 10));
        for (int i = 2; i < 9; i++)
            r.put(r.dial(port), number(i));
        fcntl(fd, F_SETFL, 0);
        serve_numbers(r, fd, 9);
    }, nobody);
    t.add("queue/backlog-shrinks-and-keeps-what-waits", [](role& r) {
        int fd = r.waiting(16), port = name_of(fd).port();
        for (int i = 0; i < 9; i++)
            r.put(r.dial(port), number(i));
        r.okay("listen", listen(fd, 1));
        fcntl(fd, F_SETFL, 0);
        serve_numbers(r, fd, 9);
    }, nobody);
}

void listener_goes(table& t) {
    t.add("queue/closed-listener-resets-what-waits", [](role& r) {
        int fd = r.waiting(), port = name_of(fd).port();
        int taken = r.dial(port), s = r.accept_late(fd);
        std::vector<int> waiting;
        for (int i = 0; i < 6; i++)
            waiting.push_back(r.dial(port));
        r.put(waiting[1], "unread");
        shutdown(waiting[2], SHUT_WR);
        close(fd);
        tally seen;
        for (int c : waiting) {
            r.until(c, POLLHUP);
            seen.add(rest_of(c));
        }
        seen.show(r, "those that waited");
        r.put(taken, "still there");
        r.get("the one that was accepted", s, 11);
    }, nobody);
    t.add("queue/listener-shut-down-with-waiting-ones", [](role& r) {
        int fd = r.waiting(), port = name_of(fd).port();
        std::vector<int> waiting;
        for (int i = 0; i < 4; i++)
            waiting.push_back(r.dial(port));
        r.ret("shutdown", shutdown(fd, SHUT_RD));
        r.okay("accept", accept(fd, nullptr, nullptr));
        tally seen;
        for (int c : waiting) {
            r.until(c, POLLHUP, 500);
            seen.add(rest_of(c));
        }
        seen.show(r, "those that waited");
        r.okay("listen again", listen(fd, 4));
        int c = r.dial(name_of(fd).port());
        r.put(c, "anew");
        r.get("get", r.accept_late(fd), 4);
    }, nobody);
    t.add("queue/copy-of-a-listener-keeps-what-waits", [](role& r) {
        int fd = r.waiting(), port = name_of(fd).port(), copy = dup(fd);
        for (int i = 0; i < 3; i++)
            r.put(r.dial(port), number(i));
        close(fd);
        fcntl(copy, F_SETFL, 0);
        serve_numbers(r, copy, 3);
        r.okay("connect", r.connect_to(r.sock(), port) ? 0 : -1);
        close(copy);
        r.okay("connect after the last copy is gone", r.connect_to(r.sock(), port) ? 0 : -1);
    }, nobody);
}

int deferring(role& r, int seconds) {
    int fd = r.bound();
    r.okay("set", setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof seconds));
    listen(fd, 16);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

void defer_accept(table& t) {
    t.add("defer/not-before-data", [](role& r) {
        int fd = deferring(r, 30), port = name_of(fd).port();
        tally before, quiet, after, had;
        for (int i = 0; i < 20; i++) {
            int c = r.dial(port);
            pollfd p{fd, POLLIN, 0};
            poll(&p, 1, 0);
            before.add(poll_mask(static_cast<unsigned>(p.revents)));
            int s = accept(fd, nullptr, nullptr);
            quiet.add(s < 0 ? errno_name(errno) : "accepted");
            r.put(c, "first");
            if (s < 0) {
                after.add(std::to_string(r.until(fd, POLLIN)));
                s = accept(fd, nullptr, nullptr);
            }
            had.add(rest_of(s));
            close(s);
            close(c);
        }
        before.show(r, "listener before data");
        quiet.show(r, "accept before data");
        after.show(r, "listener after data");
        had.show(r, "accepted with");
    }, nobody);
    t.add("defer/stays-quiet", [](role& r) {
        int fd = deferring(r, 30);
        r.tell_num(name_of(fd).port());
        r.meet();
        r.poll_now("before data", fd, POLLIN);
        r.okay("accept", accept(fd, nullptr, nullptr));
        r.meet();
        r.poll_is("after data", fd, POLLIN, POLLIN);
        int s = r.take(fd);
        r.say("{}", rest_of(s));
        r.put(s, "answer");
        r.meet();
    }, [](role& r) {
        int fd = r.dial(r.hear_num());
        r.poll_now("connected", fd, POLLIN | POLLOUT | POLLRDHUP);
        r.meet();
        r.meet();
        r.put(fd, "question");
        r.get("get", fd, 6);
        r.meet();
    });
    t.add("defer/who-speaks-first-is-accepted-first", [](role& r) {
        int fd = deferring(r, 30), port = name_of(fd).port();
        int quiet = r.dial(port), other = r.dial(port);
        r.put(other, "other");
        r.until(fd, POLLIN);
        r.yes("the one that spoke", accepted_from(fd) == host_and_port(name_of(other)));
        r.okay("accept", accept(fd, nullptr, nullptr));
        r.put(quiet, "quiet");
        r.until(fd, POLLIN);
        r.yes("the other one", accepted_from(fd) == host_and_port(name_of(quiet)));
    }, nobody);
    t.add("defer/end-counts-as-data", [](role& r) {
        int fd = deferring(r, 30), port = name_of(fd).port();
        tally seen;
        for (bool whole : {true, false}) {
            int c = r.dial(port);
            if (whole)
                close(c);
            else
                shutdown(c, SHUT_WR);
            int s = r.accept_late(fd);
            r.until(s, POLLRDHUP);
            seen.add(rest_of(s));
        }
        seen.show(r, "then");
    }, nobody);
    t.add("defer/closed-listener", [](role& r) {
        int fd = deferring(r, 30), port = name_of(fd).port();
        int c = r.dial(port);
        close(fd);
        r.wr("send", c, "x");
        r.until(c, POLLHUP);
        r.say("{}", rest_of(c));
    }, nobody);
    t.add("defer/turned-off", [](role& r) {
        int fd = deferring(r, 30), port = name_of(fd).port(), zero = 0;
        r.okay("set", setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &zero, sizeof zero));
        r.say("{}", r.opt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT));
        int c = r.dial(port), s = r.accept_late(fd);
        r.put(s, "server first");
        r.get("get", c, 12);
    }, nobody);
    t.add("defer/set-on-a-listener", [](role& r) {
        int fd = r.waiting(), port = name_of(fd).port(), seconds = 30;
        r.okay("set", setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof seconds));
        int c = r.dial(port);
        r.poll_now("before data", fd, POLLIN);
        r.put(c, "x");
        r.poll_is("after data", fd, POLLIN, POLLIN);
    }, nobody);
}

}  // namespace

void add_queue(table& t) {
    order(t);
    gone_before_accept(t);
    backlog(t);
    listener_goes(t);
    defer_accept(t);
}

}  // namespace sockdiff
