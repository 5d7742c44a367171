// fork: who reads, who writes, who closes.
#include "sockdiff.hh"

#include <stdlib.h>

namespace sockdiff {
namespace {

void forks(table& t) {
    t.pair("fork/both-write", [](role& r, int fd) {
        child_process c([&] { r.put(fd, "child "); });
        r.say("child {}", c.wait());
        r.put(fd, "parent");
    }, [](role& r, int fd) { r.get("get", fd, 12); });
    t.pair("fork/both-read", [](role& r, int fd) {
        child_process c([&] {
            r.get("child", fd, 3);
            r.meet();
        });
        r.say("child {}", c.wait());
        r.get("parent", fd, 3);
    }, [](role& r, int fd) {
        r.put(fd, "abc");
        r.meet();
        r.put(fd, "def");
    });
    t.pair("fork/child-reads-part-of-what-is-there", [](role& r, int fd) {
        r.bytes(fd, 6);
        child_process c([&] { r.rd("child", fd, 2); });
        r.say("child {}", c.wait());
        r.rd("parent", fd, 2);
        child_process d([&] { r.rd("second child", fd, 64); });
        r.say("child {}", d.wait());
        r.rd("nothing left", fd, 4, MSG_DONTWAIT);
    }, [](role& r, int fd) { r.put(fd, "abcdef"); });
    t.pair("fork/child-exit-keeps-parents", [](role& r, int fd) {
        child_process c([&] { close(fd); });
        r.say("child {}", c.wait());
        child_process d([&] { exit(0); });
        r.say("child {}", d.wait());
        child_process k([&] { raise(SIGKILL); });
        r.say("child {}", k.wait());
        r.meet();
        r.put(fd, "alive");
        r.get("get", fd, 2);
    }, [](role& r, int fd) {
        r.meet();
        r.poll_now("open", fd, POLLIN | POLLOUT | POLLRDHUP);
        r.get("get", fd, 5);
        r.put(fd, "ok");
    });
    t.pair("fork/parent-closes-child-goes-on", [](role& r, int fd) {
        gate go;
        child_process c([&] {
            go.wait();
            r.put(fd, "from the child");
            r.get("child", fd, 4);
        });
        close(fd);
        go.open();
        r.say("child {}", c.wait());
    }, [](role& r, int fd) {
        r.get("get", fd, 14);
        r.poll_now("open", fd, POLLIN | POLLOUT | POLLRDHUP);
        r.put(fd, "fine");
        r.eof("end with the child", fd);
    });
    t.pair("fork/ends-when-both-have-closed", [](role& r, int fd) {
        gate go;
        child_process c([&] {
            go.wait();
            close(fd);
        });
        close(fd);
        r.meet();
        r.meet();
        go.open();
        r.say("child {}", c.wait());
    }, [](role& r, int fd) {
        r.meet();
        r.poll_now("one holds it", fd, POLLIN | POLLOUT | POLLRDHUP);
        r.meet();
        r.eof("end", fd);
    });
    t.pair("fork/shutdown-in-the-child-is-for-all", [](role& r, int fd) {
        child_process c([&] { shutdown(fd, SHUT_WR); });
        r.say("child {}", c.wait());
        r.wr("send", fd, "x");
        r.get("get", fd, 3);
    }, [](role& r, int fd) {
        r.eof("end", fd);
        r.put(fd, "abc");
    });
    t.pair("fork/nonblock-in-the-child-is-for-all", [](role& r, int fd) {
        child_process c([&] { fcntl(fd, F_SETFL, O_NONBLOCK); });
        c.wait();
        r.say("flag {}", !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
        r.rd("recv", fd, 4);
    }, [](role&, int) {});
    t.pair("fork/alternating", [](role& r, int fd) {
        gate to_child, to_parent;
        child_process c([&] {
            for (int i = 0; i < 50; i++) {
                to_child.wait();
                char b[4];
                if (recv(fd, b, 4, MSG_WAITALL) != 4 || send(fd, b, 4, MSG_NOSIGNAL) != 4)
                    r.say("child failed");
                to_parent.open();
            }
        });
        for (int i = 0; i < 50; i++) {
            char b[4];
            if (recv(fd, b, 4, MSG_WAITALL) != 4 || send(fd, b, 4, MSG_NOSIGNAL) != 4)
                r.say("parent failed");
            to_child.open();
            to_parent.wait();
        }
        r.say("child {}", c.wait());
    }, [](role& r, int fd) {
        r.put(fd, pattern(400, 77));
        std::string b(400, 0);
        long n = recv(fd, b.data(), b.size(), MSG_WAITALL);
        r.say("{} same {}", n, b == pattern(400, 77));
    });
    t.pair("fork/one-reads-one-writes", [](role& r, int fd) {
        child_process c([&] {
            for (int i = 0; i < 20; i++)
                r.put(fd, pattern(10000, 5));
        });
        r.get("get", fd, 200000);
        r.say("child {}", c.wait());
    }, [](role& r, int fd) {
        std::thread w([&] { r.put(fd, pattern(200000, 6)); });
        r.get("get", fd, 200000);
        w.join();
    });
    t.add("fork/listener-in-the-child", [](role& r) {
        int fd = r.listening();
        child_process c([&] {
            int s = r.take(fd);
            r.put(s, "child");
        });
        r.tell_num(name_of(fd).port());
        r.say("child {}", c.wait());
        r.put(r.take(fd), "parent");
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        r.get("first", r.dial(port), 64);
        int fd = r.dial(port);
        r.get("second", fd, 6);
        r.meet();
    });
    t.add("fork/pre-forked-acceptors", [](role& r) {
        int fd = r.listening(32);
        std::vector<child_process> children;
        gate done;
        for (int i = 0; i < 4; i++)
            children.emplace_back([&] {
                for (;;) {
                    int c = accept(fd, nullptr, nullptr);
                    if (c < 0)
                        _exit(1);
                    r.put(c, "served");
                    close(c);
                }
            });
        r.tell_num(name_of(fd).port());
        r.meet();
        for (auto& c : children) {
            kill(c.pid, SIGTERM);
            r.say("child {}", c.wait());
        }
    }, [](role& r) {
        int port = r.hear_num(), served = 0;
        for (int i = 0; i < 40; i++) {
            int fd = r.dial(port);
            char b[16];
            served += recv(fd, b, 16, MSG_WAITALL) == 6;
            close(fd);
        }
        r.say("served {}", served);
        r.meet();
    });
    t.add("fork/connect-in-the-child", [](role& r) {
        int fd = r.serve();
        for (int i = 0; i < 2; i++) {
            int c = r.take(fd);
            r.get("get", c, 6);
            r.put(c, "ok");
        }
        r.meet();
    }, [](role& r) {
        int port = r.hear_num(), unconnected = r.sock();
        child_process c([&] {
            auto a = r.loopback(port);
            r.ret("connect in the child", connect(unconnected, a.sa(), a.len));
            r.put(unconnected, "child ");
        });
        r.say("child {}", c.wait());
        // The same open file: the parent's descriptor is connected, too.
        r.yes("connected for the parent", peer_of(unconnected).port() == port);
        r.get("get", unconnected, 2);
        int fd = r.dial(port);
        r.put(fd, "parent");
        r.meet();
    });
    t.add("fork/many-children-connect", [](role& r) {
        int fd = r.serve(64), got = 0;
        for (int i = 0; i < 16; i++) {
            int c = r.take(fd);
            char b[4];
            got += recv(c, b, 4, MSG_WAITALL) == 4;
            r.put(c, "k");
        }
        r.say("got {}", got);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num();
        std::vector<child_process> children;
        for (int i = 0; i < 16; i++)
            children.emplace_back([&] {
                int fd = r.dial(port);
                r.put(fd, "ping");
                char b;
                if (recv(fd, &b, 1, 0) != 1)
                    _exit(1);
            });
        int bad = 0;
        for (auto& c : children)
            bad += c.wait() != "exit 0";
        r.say("bad {}", bad);
        r.meet();
    });
}

}  // namespace

void add_processes(table& t) { forks(t); }

}  // namespace sockdiff
