// Edge-triggered epoll: which happenings make an edge, and which do not.
#include "sockdiff.hh"

namespace sockdiff {
namespace {

constexpr uint32_t in_et = EPOLLIN | EPOLLET;
constexpr uint32_t in_out_et = EPOLLIN | EPOLLOUT | EPOLLET;
constexpr uint32_t all_et = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;

void incoming(table& t) {
    t.pair("edge/data", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.ep_ctl("", ep, EPOLL_CTL_ADD, fd, in_et, 1);
        r.ep_now("fresh", ep);
        r.meet();
        r.ep_is("first", ep, EPOLLIN);
        r.ep_now("no second event", ep);
        r.rd("recv part", fd, 2);
        r.ep_now("none after a part", ep);
        r.meet();
        r.ep_is("new data, old left", ep, EPOLLIN);
        r.ep_now("no second event", ep);
        r.rd("recv", fd, 64);
        r.ep_now("empty", ep);
        r.meet();
        r.ep_is("data after empty", ep, EPOLLIN);
        r.meet();
        r.ep_is("end, data left", ep, EPOLLIN);
        r.rd("recv", fd, 64);
        r.rd("recv", fd, 64);
        r.ep_now("no event", ep);
    }, [](role& r, int fd) {
        for (auto s : {"abcd", "efgh", "ijkl"}) {
            r.meet();
            r.put(fd, s);
        }
        r.meet();
        shutdown(fd, SHUT_WR);
    });
    t.pair("edge/many-edges-with-data-left", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.ep_ctl("", ep, EPOLL_CTL_ADD, fd, in_et, 1);
        for (int i = 1; i <= 12; i++) {
            r.meet();
            r.ep_is("edge", ep, EPOLLIN);
        }
        r.bytes(fd, 12);
        r.rd("recv", fd, 64);
        r.ep_now("empty", ep);
        r.meet();
        r.ep_is("edge", ep, EPOLLIN);
    }, [](role& r, int fd) {
        for (int i = 0; i < 13; i++) {
            r.meet();
            r.put(fd, "x");
        }
    });
    t.pair("edge/add-of-ready", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.bytes(fd, 4);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, in_et, 1);
        r.ep_now("event", ep);
        r.ep_now("only one", ep);
        r.ep_ctl("del", ep, EPOLL_CTL_DEL, fd, 0, 0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, all_et, 2);
        r.ep_now("event", ep);
        r.ep_now("only one", ep);
    }, [](role& r, int fd) { r.put(fd, "data"); });
    t.pair("edge/mod-of-ready", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.bytes(fd, 4);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, in_et, 1);
        r.ep_now("event", ep);
        r.ep_ctl("mod the same", ep, EPOLL_CTL_MOD, fd, in_et, 1);
        r.ep_now("event", ep);
        r.ep_now("only one", ep);
        r.ep_ctl("mod, OUT too", ep, EPOLL_CTL_MOD, fd, in_out_et, 1);
        r.ep_now("event", ep);
        r.ep_ctl("mod, OUT away", ep, EPOLL_CTL_MOD, fd, in_et, 1);
        r.ep_now("event", ep);
        r.rd("recv", fd, 8);
        r.ep_ctl("mod when empty", ep, EPOLL_CTL_MOD, fd, in_et, 1);
        r.ep_now("no event", ep);
        r.ep_ctl("mod to OUT", ep, EPOLL_CTL_MOD, fd, EPOLLOUT | EPOLLET, 1);
        r.ep_now("event", ep);
        r.ep_now("only one", ep);
    }, [](role& r, int fd) { r.put(fd, "data"); });
    t.pair("edge/level-to-edge-and-back", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.bytes(fd, 4);
        r.ep_ctl("add level", ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
        r.ep_now("event", ep);
        r.ep_now("again", ep);
        r.ep_ctl("mod edge", ep, EPOLL_CTL_MOD, fd, in_et, 1);
        r.ep_now("event", ep);
        r.ep_now("none", ep);
        r.ep_ctl("mod level", ep, EPOLL_CTL_MOD, fd, EPOLLIN, 1);
        r.ep_now("event", ep);
        r.ep_now("again", ep);
    }, [](role& r, int fd) { r.put(fd, "data"); });
    t.pair("edge/in-and-out-together", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, in_out_et, 1);
        r.ep_now("OUT at once", ep);
        r.ep_now("only once", ep);
        r.meet();
        r.ep_is("IN shows OUT as well", ep, EPOLLIN);
        r.wr("send", fd, "abc");
        r.rd("recv", fd, 8);
        r.ep_now("sending and reading make none", ep);
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "x");
        r.get("get", fd, 3);
    });
    t.pair("edge/rdhup", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLRDHUP | EPOLLET, 1);
        r.ep_now("fresh", ep);
        r.meet();
        r.bytes(fd, 4);
        r.ep_now("data is not asked for", ep);
        r.meet();
        r.ep_is("end", ep, EPOLLRDHUP);
        r.ep_now("only once", ep);
        shutdown(fd, SHUT_WR);
        r.ep_is("own end", ep, EPOLLHUP);
        r.ep_now("only once", ep);
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "data");
        r.meet();
        shutdown(fd, SHUT_WR);
    });
    t.pair("edge/end-all-bits", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, all_et, 1);
        r.ep_now("fresh", ep);
        r.meet();
        r.ep_is("end", ep, EPOLLRDHUP);
        r.rd("recv", fd, 8);
        r.ep_now("none", ep);
        r.ep_ctl("mod", ep, EPOLL_CTL_MOD, fd, all_et, 1);
        r.ep_now("event", ep);
    }, [](role& r, int fd) {
        r.meet();
        close(fd);
    });
    t.pair("edge/data-and-end-at-once", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.until(fd, POLLRDHUP);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, all_et, 1);
        r.ep_now("event", ep);
        r.rd("recv", fd, 64);
        r.rd("recv", fd, 64);
        r.ep_now("none", ep);
    }, [](role& r, int fd) {
        r.put(fd, "data");
        close(fd);
    });
    t.pair("edge/peek-does-not-rearm", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.ep_ctl("", ep, EPOLL_CTL_ADD, fd, in_et, 1);
        r.meet();
        r.ep_is("event", ep, EPOLLIN);
        r.rd("peek", fd, 8, MSG_PEEK);
        r.ep_now("none", ep);
        r.rd("recv", fd, 8);
        r.ep_now("none", ep);
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "data");
    });
    t.pair("edge/read-to-eagain-loop", [](role& r, int fd) {
        // The classic loop: every byte must be found by edges alone.
        int ep = epoll_create1(0);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        r.ep_ctl("", ep, EPOLL_CTL_ADD, fd, in_et, 1);
        std::string all;
        bool open = true, woken = true;
        while (open && woken) {
            epoll_event e;
            woken = epoll_wait(ep, &e, 1, 3000) == 1;
            char b[100];
            long n;
            while ((n = read(fd, b, sizeof b)) > 0)
                all.append(b, n);
            if (n == 0)
                open = false;
        }
        r.say("woken {} same {}", woken, all == pattern(40000, 12));
    }, [](role& r, int fd) {
        std::string s = pattern(40000, 12);
        size_t step = 1;
        for (size_t i = 0; i < s.size(); i += step, step = step % 211 + 17) {
            step = std::min(step, s.size() - i);
            r.put(fd, std::string_view(s).substr(i, step));
            if (i % 7 == 0)
                nap(1);
        }
        shutdown(fd, SHUT_WR);
    });
}

void outgoing(table& t) {
    t.pair("edge/out-after-full", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, in_out_et, 1);
        r.ep_now("OUT", ep);
        fill_up(fd);
        r.ep_now("full", ep);
        r.poll_now("poll", fd, POLLIN | POLLOUT);
        r.meet();
        r.ep_is("drained", ep, EPOLLOUT);
        r.wr("send", fd, "x", MSG_DONTWAIT | MSG_NOSIGNAL);
        r.meet();
    }, [](role& r, int fd) {
        r.meet();
        drain(fd);
        r.meet();
    });
    t.pair("edge/out-mod-when-full", [](role& r, int fd) {
        int ep = epoll_create1(0);
        fill_up(fd);
        r.ep_ctl("add IN", ep, EPOLL_CTL_ADD, fd, in_et, 1);
        r.ep_now("none", ep);
        r.ep_ctl("mod to IN and OUT", ep, EPOLL_CTL_MOD, fd, in_out_et, 2);
        r.ep_now("full", ep);
        r.meet();
        r.ep_is("drained", ep, EPOLLOUT);
        r.ep_ctl("mod to IN", ep, EPOLL_CTL_MOD, fd, in_et, 3);
        r.ep_now("none", ep);
        r.meet();
    }, [](role& r, int fd) {
        r.meet();
        drain(fd);
        r.meet();
    });
    t.pair("edge/write-to-eagain-loop", [](role& r, int fd) {
        int ep = epoll_create1(0);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        r.ep_ctl("", ep, EPOLL_CTL_ADD, fd, EPOLLOUT | EPOLLET, 1);
        std::string s = pattern(6 << 20, 21);
        size_t at = 0;
        bool woken = true;
        while (at < s.size() && woken) {
            long n;
            while (at < s.size() &&
                   (n = send(fd, s.data() + at, std::min<size_t>(s.size() - at, 77777), MSG_NOSIGNAL)) > 0)
                at += n;
            epoll_event e;
            if (at < s.size())
                woken = epoll_wait(ep, &e, 1, 3000) == 1;
        }
        r.say("woken {} all {}", woken, at == s.size());
        shutdown(fd, SHUT_WR);
    }, [](role& r, int fd) {
        std::string s, b(50000, 0);
        long n;
        while ((n = recv(fd, b.data(), b.size(), 0)) > 0) {
            s.append(b, 0, n);
            if (s.size() % 16 == 0)
                nap(1);
        }
        r.say("same {}", s == pattern(6 << 20, 21));
    }, 10000);
    t.pair("edge/reset", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, all_et, 1);
        r.ep_now("OUT", ep);
        r.put(fd, "unread");
        r.meet();
        r.ep_is("reset", ep, EPOLLERR | EPOLLHUP);
        r.ep_now("once", ep);
        r.ep_ctl("mod", ep, EPOLL_CTL_MOD, fd, all_et, 1);
        r.ep_now("event", ep);
        r.say("SO_ERROR {}", r.so_error(fd));
        r.ep_ctl("mod", ep, EPOLL_CTL_MOD, fd, all_et, 1);
        r.ep_now("event", ep);
    }, [](role& r, int fd) {
        r.bytes(fd, 6);
        r.meet();
        close(fd);
    });
    t.pair("edge/own-shutdown", [](role& r, int fd) {
        int ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, all_et, 1);
        r.ep_now("OUT", ep);
        shutdown(fd, SHUT_RD);
        r.ep_is("RD", ep, EPOLLRDHUP);
        shutdown(fd, SHUT_WR);
        r.ep_now("WR", ep);
        r.ep_now("once", ep);
    }, [](role& r, int fd) { r.eof("end", fd); });
}

void listening(table& t) {
    t.add("edge/listener", [](role& r) {
        int fd = r.serve(), ep = epoll_create1(0);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, in_et, 1);
        r.ep_now("idle", ep);
        r.meet();
        r.meet();
        r.ep_is("first", ep, EPOLLIN);
        r.ep_now("once", ep);
        r.meet();
        r.meet();
        r.ep_is("second, first not taken", ep, EPOLLIN);
        r.okay("accept", accept(fd, nullptr, nullptr));
        r.ep_now("none though one waits", ep);
        r.ep_ctl("mod", ep, EPOLL_CTL_MOD, fd, in_et, 1);
        r.ep_now("event", ep);
        r.okay("accept", accept(fd, nullptr, nullptr));
        r.ret("accept", accept(fd, nullptr, nullptr));
        r.ep_now("none", ep);
        r.meet();
        r.meet();
        r.ep_is("third", ep, EPOLLIN);
        r.okay("accept", accept(fd, nullptr, nullptr));
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        for (int i = 0; i < 3; i++) {
            r.meet();
            r.dial(port);
            r.meet();
        }
        r.meet();
    });
    t.add("edge/listener-until-eagain-loop", [](role& r) {
        int fd = r.serve(64), ep = epoll_create1(0);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        r.ep_ctl("", ep, EPOLL_CTL_ADD, fd, in_et, 1);
        r.meet();
        int taken = 0;
        bool woken = true;
        std::vector<int> keep;
        while (taken < 60 && woken) {
            epoll_event e;
            woken = epoll_wait(ep, &e, 1, 3000) == 1;
            for (int c; (c = accept4(fd, nullptr, nullptr, SOCK_NONBLOCK)) >= 0; taken++)
                keep.push_back(c);
        }
        r.say("woken {} taken {}", woken, taken);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        r.meet();
        for (int i = 0; i < 60; i++) {
            r.dial(port);
            if (i % 7 == 0)
                nap(2);
        }
        r.meet();
    });
}

}  // namespace

void add_epoll_edges(table& t) {
    incoming(t);
    outgoing(t);
    listening(t);
}

}  // namespace sockdiff
