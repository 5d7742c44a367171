// dup and its kin, O_NONBLOCK in all its ways, descriptor numbers, close_range.
#include "sockdiff.hh"

#include <sys/eventfd.h>

namespace sockdiff {
namespace {

struct duplicator {
    const char* name;
    int (*dup)(int fd);
};
const duplicator ways[] = {
    {"dup", [](int fd) { return dup(fd); }},
    {"dup2", [](int fd) { return dup2(fd, 300); }},
    {"dup3", [](int fd) { return dup3(fd, 301, O_CLOEXEC); }},
    {"F_DUPFD", [](int fd) { return fcntl(fd, F_DUPFD, 310); }},
    {"F_DUPFD_CLOEXEC", [](int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 320); }},
};

void duplicates(table& t) {
    for (auto& w : ways) {
        std::string p = std::string("dup/") + w.name;
        t.pair(p + "-connected", [&w](role& r, int fd) {
            int copy = w.dup(fd);
            r.okay("dup", copy);
            r.say("cloexec {} {}", fcntl(fd, F_GETFD), fcntl(copy, F_GETFD));
            r.wr("send by the original", fd, "a");
            r.wr("send by the copy", copy, "b");
            r.meet();
            r.bytes(fd, 4);
            r.rd("recv by the copy", copy, 2);
            r.rd("recv by the original", fd, 2);
            r.okay("close the original", close(fd));
            r.wr("send", copy, "c");
            r.meet();
            r.get("get", copy, 1);
            r.okay("close the copy", close(copy));
        }, [](role& r, int fd) {
            r.get("get", fd, 2);
            r.put(fd, "1234");
            r.meet();
            r.get("get", fd, 1);
            r.poll_now("still open", fd, POLLIN | POLLOUT | POLLRDHUP);
            r.put(fd, "5");
            r.meet();
            r.eof("end", fd);
        });
        t.add(p + "-before-connect", [](role& r) {
            int c = r.take(r.serve());
            r.get("get", c, 2);
            r.put(c, "xy");
            r.meet();
            r.eof("end", c);
            r.meet();
        }, [&w](role& r) {
            int fd = r.sock(), copy = w.dup(fd);
            auto a = r.loopback(r.hear_num());
            r.ret("connect the original", connect(fd, a.sa(), a.len));
            r.yes("same name", name_of(fd) == name_of(copy));
            r.ret("connect the copy", connect(copy, a.sa(), a.len));
            r.wr("send by the copy", copy, "a");
            r.wr("send by the original", fd, "b");
            r.bytes(copy, 2);
            r.rd("recv by the copy", copy, 1);
            close(fd);
            r.rd("recv by the copy", copy, 1);
            r.meet();
            close(copy);
            r.meet();
        });
        t.add(p + "-before-listen", [&w](role& r) {
            int fd = r.bound(), copy = w.dup(fd);
            r.okay("listen on the copy", listen(copy, 4));
            r.say("accepting {} {}", r.opt(fd, SOL_SOCKET, SO_ACCEPTCONN), r.opt(copy, SOL_SOCKET, SO_ACCEPTCONN));
            r.tell_num(name_of(fd).port());
            r.okay("accept by the original", accept(fd, nullptr, nullptr));
            close(fd);
            r.okay("accept by the copy", accept(copy, nullptr, nullptr));
            r.meet();
        }, [](role& r) {
            int port = r.hear_num();
            r.dial(port);
            r.dial(port);
            r.meet();
        });
    }
    t.add("dup/while-connecting", [](role& r) {
        int c = r.take(r.serve());
        r.put(c, "hi");
        r.meet();
    }, [](role& r) {
        int fd = r.sock(SOCK_NONBLOCK);
        auto a = r.loopback(r.hear_num());
        r.ret("connect", connect(fd, a.sa(), a.len));
        int copy = dup(fd);
        close(fd);
        r.until(copy, POLLOUT);
        r.say("SO_ERROR {}", r.so_error(copy));
        r.ret("connect the copy", connect(copy, a.sa(), a.len));
        r.get("get", copy, 2);
        r.meet();
    });
    t.pair("dup/shared-flags-and-options", [](role& r, int fd) {
        int copy = dup(fd), one = 1;
        fcntl(fd, F_SETFL, O_NONBLOCK);
        r.say("copy non-blocking {}", !!(fcntl(copy, F_GETFL) & O_NONBLOCK));
        r.rd("recv", copy, 1);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        r.say("copy nodelay {}", r.opt(copy, IPPROTO_TCP, TCP_NODELAY));
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        r.say("cloexec {} {}", fcntl(fd, F_GETFD), fcntl(copy, F_GETFD));
        shutdown(copy, SHUT_WR);
        r.wr("send", fd, "x");
    }, [](role& r, int fd) { r.eof("end", fd); });
    t.pair("dup/over-a-connected-socket", [](role& r, int fd) {
        int p[2];
        if (pipe(p) < 0)
            return;
        r.yes("dup2 gives the number", dup2(p[1], fd) == fd);
        r.ret("write to the pipe", write(fd, "pipe", 4));
        char b[8];
        r.got("read", read(p[0], b, 8), b);
        r.ret("send is not for pipes", send(fd, "x", 1, 0));
        r.ret("getsockname", getsockname(fd, nullptr, nullptr));
    }, [](role& r, int fd) { r.eof("end", fd); });
    t.pair("dup/socket-over-a-file", [](role& r, int fd) {
        int f = open("/dev/null", O_RDWR);
        r.yes("dup2 gives the number", dup2(fd, f) == f);
        close(fd);
        r.ret("write", write(f, "hello", 5));
        r.get("get", f, 3);
    }, [](role& r, int fd) {
        r.get("get", fd, 5);
        r.put(fd, "bye");
    });
    t.pair("dup/over-itself", [](role& r, int fd) {
        r.yes("dup2", dup2(fd, fd) == fd);
        r.ret("dup3", dup3(fd, fd, 0));
        r.ret("dup3 bad flags", dup3(fd, 333, 0x40));
        r.ret("dup2 negative", dup2(fd, -1));
        r.ret("dup2 from closed", dup2(777, fd));
        r.ret("F_DUPFD too high", fcntl(fd, F_DUPFD, 1 << 30));
        r.put(fd, "alive");
    }, [](role& r, int fd) { r.get("get", fd, 5); });
    t.pair("dup/one-connection-over-another", [](role& r, int fd) {
        int other;
        if (r.server)
            other = r.take(r.listen_fd);
        else
            other = r.dial(peer_of(fd).port());
        r.yes("dup2", dup2(fd, other) == other);
        r.wr("send", other, "first connection");
        close(other);
        r.wr("send", fd, "!");
    }, [](role& r, int fd) {
        int other;
        if (r.server)
            other = r.take(r.listen_fd);
        else
            other = r.dial(peer_of(fd).port());
        r.eof("the other ended", other);
        r.get("get", fd, 17);
    });
    t.pair("dup/many", [](role& r, int fd) {
        std::vector<int> copies;
        for (int i = 0; i < 50; i++)
            copies.push_back(dup(fd));
        for (int c : copies)
            r.put(c, "x");
        close(fd);
        for (size_t i = 0; i + 1 < copies.size(); i++)
            close(copies[i]);
        r.get("get", copies.back(), 3);
        close(copies.back());
    }, [](role& r, int fd) {
        r.get("get", fd, 50);
        r.poll_now("open", fd, POLLIN | POLLOUT | POLLRDHUP);
        r.put(fd, "abc");
        r.eof("end", fd);
    });
}

void numbers(table& t) {
    t.pair("fd/number-reused-at-once", [](role& r, int fd) {
        close(fd);
        int again = r.sock();
        r.yes("the lowest number", again == fd);
        r.rd("recv on the new", again, 4);
        close(again);
        int e = eventfd(3, 0);
        r.yes("the lowest number", e == fd);
        uint64_t v = 0;
        r.ret("read eventfd", read(e, &v, 8));
        r.say("value {}", v);
        r.ret("recv on eventfd", recv(e, &v, 8, 0));
        close(e);
        int f = open("/dev/zero", O_RDONLY);
        char b[4] = {1, 1, 1, 1};
        r.got("read /dev/zero", read(f, b, 4), b);
    }, [](role& r, int fd) { r.eof("end", fd); });
    t.add("fd/lowest-number-is-taken", [](role& r) {
        int fd = r.serve();
        int hole = open("/dev/null", O_RDONLY), after = open("/dev/null", O_RDONLY);
        close(hole);
        int c = r.take(fd);
        r.yes("accept takes the hole", c == hole);
        r.yes("next is above", open("/dev/null", O_RDONLY) > after);
        r.meet();
    }, [](role& r) {
        int hole = open("/dev/null", O_RDONLY), after = open("/dev/null", O_RDONLY);
        close(hole);
        int fd = r.dial(r.hear_num());
        r.yes("socket takes the hole", fd == hole);
        r.yes("next is above", open("/dev/null", O_RDONLY) == after + 1);
        r.meet();
    });
    t.pair("fd/close-range", [](role& r, int fd) {
        r.ret("close_range", close_range(fd, fd, 0));
        r.rd("recv", fd, 4);
        r.ret("close", close(fd));
    }, [](role& r, int fd) { r.eof("end", fd); });
    t.pair("fd/close-range-cloexec", [](role& r, int fd) {
        r.ret("close_range", close_range(fd, fd, CLOSE_RANGE_CLOEXEC));
        r.say("cloexec {}", fcntl(fd, F_GETFD));
        r.put(fd, "still open");
        r.ret("backwards", close_range(9, 8, 0));
        r.ret("bad flags", close_range(9, 9, 0x80));
    }, [](role& r, int fd) { r.get("get", fd, 10); });
    for (bool range : {false, true}) {
        t.pair(range ? "fd/close-range-all" : "fd/closefrom", [=](role& r, int) {
            // As sshd does it; then the process goes on to make new connections.
            r.ctl = dup2(r.ctl, 0);
            r.sync = dup2(r.sync, 1);
            if (range)
                close_range(3, ~0u, 0);
            else
                closefrom(3);
            r.meet();
            int fd = r.server ? r.take(r.serve()) : r.dial(r.hear_num());
            r.yes("a low number", fd == (r.server ? 4 : 3));
            r.wr("send", fd, "new");
            r.get("get", fd, 3);
        }, [](role& r, int fd) {
            r.eof("end", fd);
            r.meet();
            int again = r.server ? r.take(r.serve()) : r.dial(r.hear_num());
            r.get("get", again, 3);
            r.wr("send", again, "old");
        });
    }
    t.pair("fd/fstat-and-seek", [](role& r, int fd) {
        struct stat st;
        r.ret("fstat", fstat(fd, &st));
        r.say("socket {} size {}", !!S_ISSOCK(st.st_mode), st.st_size);
        char b[4];
        r.ret("lseek", lseek(fd, 0, SEEK_SET));
        r.ret("pread", pread(fd, b, 4, 0));
        r.ret("pwrite", pwrite(fd, b, 4, 0));
        iovec v{b, 4};
        r.ret("preadv", preadv(fd, &v, 1, 0));
        r.ret("ftruncate", ftruncate(fd, 0));
        r.ret("fsync", fsync(fd));
        r.ret("isatty", isatty(fd));
        r.say("access mode {}", fcntl(fd, F_GETFL) & O_ACCMODE);
        char link[64] = {};
        r.say("link {}",
              readlink(std::format("/proc/self/fd/{}", fd).c_str(), link, 63) > 7 && !strncmp(link, "socket:", 7));
    }, [](role&, int) {});
    t.pair("fd/owner-and-sigio", [](role& r, int fd) {
        catch_signal(SIGIO, true);
        r.ret("F_SETOWN", fcntl(fd, F_SETOWN, getpid()));
        r.yes("F_GETOWN", fcntl(fd, F_GETOWN) == getpid());
        r.ret("O_ASYNC", fcntl(fd, F_SETFL, O_ASYNC));
        r.meet();
        r.bytes(fd, 1);
        r.eventually("SIGIO", [] { return signals_seen(SIGIO) > 0; });
        r.rd("recv", fd, 4);
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "x");
    });
}

void nonblocking(table& t) {
    struct setter {
        const char* name;
        void (*set)(int fd, bool on);
    };
    for (auto s : {setter{"fcntl",
                          [](int fd, bool on) {
        int f = fcntl(fd, F_GETFL);
        fcntl(fd, F_SETFL, on ? f | O_NONBLOCK : f & ~O_NONBLOCK);
    }},
                   setter{"FIONBIO", [](int fd, bool on) {
        int v = on;
        ioctl(fd, FIONBIO, &v);
    }}}) {
        t.pair(std::string("nonblock/") + s.name, [=](role& r, int fd) {
            s.set(fd, true);
            r.say("flag {}", !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
            char b[4];
            r.ret("read", read(fd, b, 4));
            r.rd("recv", fd, 4);
            s.set(fd, false);
            r.say("flag {}", !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
            r.meet();
            r.rd("blocking recv", fd, 4);
        }, [](role& r, int fd) {
            r.meet();
            nap(40);
            r.put(fd, "data");
        });
        t.add(std::string("nonblock/before-connect-") + s.name, [](role& r) {
            r.take(r.serve());
            r.meet();
        }, [=](role& r) {
            int fd = r.sock();
            s.set(fd, true);
            auto a = r.loopback(r.hear_num());
            r.ret("connect", connect(fd, a.sa(), a.len));
            r.say("flag {}", !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
            r.until(fd, POLLOUT);
            r.rd("recv", fd, 4);
            r.say("flag {}", !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
            r.meet();
        });
        t.add(std::string("nonblock/listener-") + s.name, [=](role& r) {
            int fd = r.bound();
            s.set(fd, true);
            listen(fd, 4);
            r.say("flag {}", !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
            r.ret("accept", accept(fd, nullptr, nullptr));
            r.tell_num(name_of(fd).port());
            r.until(fd, POLLIN);
            int c = accept(fd, nullptr, nullptr);
            r.okay("accept", c);
            r.say("not inherited {}", !(fcntl(c, F_GETFL) & O_NONBLOCK));
            r.say("cloexec {}", fcntl(c, F_GETFD));
            r.meet();
            r.rd("blocking recv", c, 4);
        }, [](role& r) {
            int fd = r.dial(r.hear_num());
            r.meet();
            nap(40);
            r.put(fd, "data");
            r.eof("end", fd);
        });
    }
    t.add("nonblock/socket-flags", [](role& r) {
        for (int flags : {0, 0 + SOCK_NONBLOCK, 0 + SOCK_CLOEXEC, SOCK_NONBLOCK | SOCK_CLOEXEC}) {
            int fd = r.sock(flags);
            r.say("nonblock {} cloexec {}", !!(fcntl(fd, F_GETFL) & O_NONBLOCK), fcntl(fd, F_GETFD));
        }
        r.ret("bad type", socket(r.family, SOCK_STREAM | 0x40, 0));
        r.ret("bad protocol", socket(r.family, SOCK_STREAM, IPPROTO_UDP));
        r.ret("bad family", socket(77, SOCK_STREAM, 0));
        r.okay("explicit protocol", socket(r.family, SOCK_STREAM, IPPROTO_TCP));
        r.ret("pair", socketpair(r.family, SOCK_STREAM, 0, std::vector<int>(2).data()));
    }, [](role&) {});
    t.add("nonblock/kept-over-connect", [](role& r) {
        int c = r.take(r.serve());
        r.meet();
        r.put(c, "x");
        r.meet();
    }, [](role& r) {
        int fd = r.sock(SOCK_NONBLOCK | SOCK_CLOEXEC);
        auto a = r.loopback(r.hear_num());
        connect(fd, a.sa(), a.len);
        r.until(fd, POLLOUT);
        r.say("nonblock {} cloexec {}", !!(fcntl(fd, F_GETFL) & O_NONBLOCK), fcntl(fd, F_GETFD));
        r.rd("recv", fd, 4);
        r.meet();
        r.get("get", fd, 1);
        r.meet();
    });
}

}  // namespace

void add_descriptors(table& t) {
    duplicates(t);
    numbers(t);
    nonblocking(t);
}

}  // namespace sockdiff
