// Half-close, end of file, orderly close, writing after the peer has gone.
#include "sockdiff.hh"

namespace sockdiff {
namespace {

void half_close(table& t) {
    t.pair("shutdown/wr-then-read-rest", [](role& r, int fd) {
        r.put(fd, "request");
        r.ret("shutdown WR", shutdown(fd, SHUT_WR));
        r.wr("send", fd, "x");
        r.get("answer", fd, 6);
        r.meet();
        r.eof("end", fd);
        r.poll_is("poll", fd, POLLIN | POLLOUT | POLLRDHUP, POLLHUP);
    }, [](role& r, int fd) {
        r.get("request", fd, 7);
        r.eof("end", fd);
        r.poll_is("poll", fd, POLLIN | POLLOUT | POLLRDHUP, POLLRDHUP);
        r.put(fd, "answer");
        r.meet();
        r.ret("shutdown WR", shutdown(fd, SHUT_WR));
        r.poll_is("poll", fd, POLLIN | POLLOUT | POLLRDHUP, POLLHUP);
        r.ret("shutdown again", shutdown(fd, SHUT_WR));
    });
    t.pair("shutdown/rd", [](role& r, int fd) {
        r.ret("shutdown RD", shutdown(fd, SHUT_RD));
        r.rd("recv", fd, 4);
        r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
        r.meet();
        r.meet();
        r.bytes(fd, 5);
        r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
        r.rd("recv", fd, 8);  // the kernel goes on delivering
        r.rd("recv", fd, 8);
        r.wr("send", fd, "other way");
    }, [](role& r, int fd) {
        r.meet();
        r.wr("send", fd, "hello");
        r.meet();
        r.get("get", fd, 9);
        r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
    });
    t.pair("shutdown/rd-with-data-unread", [](role& r, int fd) {
        r.meet();
        r.bytes(fd, 5);
        r.ret("shutdown RD", shutdown(fd, SHUT_RD));
        r.rd("recv", fd, 3);
        r.rd("recv", fd, 3);
        r.rd("recv", fd, 3);
    }, [](role& r, int fd) {
        r.wr("send", fd, "hello");
        r.meet();
    });
    t.pair("shutdown/rdwr", [](role& r, int fd) {
        r.put(fd, "last words");
        r.ret("shutdown", shutdown(fd, SHUT_RDWR));
        r.rd("recv", fd, 4);
        r.wr("send", fd, "x");
        r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
        r.meet();
        r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
        endpoint e;
        r.okay("getpeername", getpeername(fd, e.sa(), &e.len));
        r.ret("shutdown again", shutdown(fd, SHUT_RDWR));
    }, [](role& r, int fd) {
        r.get("get", fd, 10);
        r.eof("end", fd);
        r.ret("shutdown", shutdown(fd, SHUT_RDWR));
        r.meet();
        r.rd("recv", fd, 4);
    });
    t.pair("shutdown/rdwr-then-peer-writes", [](role& r, int fd) {
        r.ret("shutdown", shutdown(fd, SHUT_RDWR));
        r.meet();
        r.meet();
        r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
        r.rd("recv", fd, 4);
    }, [](role& r, int fd) {
        r.meet();
        r.eof("end", fd);
        r.wr("send", fd, "x");
        r.meet();
        r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
    });
    t.pair("shutdown/both-sides-wr", [](role& r, int fd) {
        r.put(fd, "mine");
        r.ret("shutdown", shutdown(fd, SHUT_WR));
        r.get("get", fd, 8);
        r.poll_is("poll", fd, POLLIN | POLLOUT | POLLRDHUP, POLLHUP);
        r.wr("send", fd, "x");
        r.say("SO_ERROR {}", r.so_error(fd));
    }, [](role& r, int fd) {
        r.put(fd, "yours");
        r.ret("shutdown", shutdown(fd, SHUT_WR));
        r.get("get", fd, 8);
        r.poll_is("poll", fd, POLLIN | POLLOUT | POLLRDHUP, POLLHUP);
    });
    t.pair("shutdown/double", [](role& r, int fd) {
        r.ret("WR", shutdown(fd, SHUT_WR));
        r.ret("WR", shutdown(fd, SHUT_WR));
        r.ret("RD", shutdown(fd, SHUT_RD));
        r.ret("RDWR", shutdown(fd, SHUT_RDWR));
        r.ret("bad", shutdown(fd, 3));
        r.ret("negative", shutdown(fd, -1));
        r.rd("recv", fd, 1);
    }, [](role& r, int fd) { r.eof("end", fd); });
    t.pair("shutdown/wr-wakes-blocked-writer", [](role& r, int fd) {
        std::atomic<int> tid = 0;
        std::string big = pattern(16 << 20);
        long n = 0;
        std::thread w([&] {
            tid = my_tid();
            n = send(fd, big.data(), big.size(), MSG_NOSIGNAL);
        });
        wait_until_blocked(tid);
        r.ret("shutdown", shutdown(fd, SHUT_WR));
        w.join();
        r.say("a part was sent {}", n > 0 && n < static_cast<long>(big.size()));
        r.wr("send", fd, "x");
    }, [](role&, int) {});
    for (int how : {SHUT_RD, SHUT_RDWR}) {
        t.pair(std::format("shutdown/{}-wakes-blocked-reader", how == SHUT_RD ? "rd" : "rdwr"), [=](role& r, int fd) {
            std::atomic<int> tid = 0;
            std::thread th([&] {
                tid = my_tid();
                r.rd("recv in thread", fd, 4);
            });
            wait_until_blocked(tid);
            shutdown(fd, how);
            th.join();
        }, [](role&, int) {});
    }
    t.pair("shutdown/big-data-then-wr", [](role& r, int fd) {
        std::string big = pattern(3 << 20);
        r.put(fd, big);
        r.ret("shutdown", shutdown(fd, SHUT_WR));
        r.get("answer", fd, 4);
    }, [](role& r, int fd) {
        nap(settle_ms);
        r.get("get", fd, (3 << 20) + 1);
        r.put(fd, "done");
    });
}

void closing(table& t) {
    t.pair("close/data-before-close-arrives", [](role& r, int fd) {
        r.put(fd, "farewell");
        r.okay("close", close(fd));
    }, [](role& r, int fd) {
        r.get("get", fd, 64);
        r.poll_is("poll", fd, POLLIN | POLLOUT | POLLRDHUP, POLLRDHUP);
        r.rd("recv", fd, 1);
        r.rd("recv", fd, 1);
    });
    t.pair("close/data-before-shutdown-and-close", [](role& r, int fd) {
        r.put(fd, "farewell");
        r.okay("shutdown", shutdown(fd, SHUT_RDWR));
        r.okay("close", close(fd));
    }, [](role& r, int fd) { r.get("get", fd, 64); });
    t.pair("close/big-data-before-close", [](role& r, int fd) {
        r.put(fd, pattern(2 << 20));
        r.okay("close", close(fd));
    }, [](role& r, int fd) {
        nap(settle_ms);
        r.get("get", fd, (2 << 20) + 64);
    });
    t.pair("close/eof-read-many-times", [](role&, int fd) { close(fd); }, [](role& r, int fd) {
        r.until(fd, POLLRDHUP);
        char b[8];
        r.ret("read", read(fd, b, 8));
        r.ret("read", read(fd, b, 8));
        r.rd("peek", fd, 8, MSG_PEEK);
        r.rd("waitall", fd, 8, MSG_WAITALL);
        r.rd("dontwait", fd, 8, MSG_DONTWAIT);
        int n = 5;
        ioctl(fd, FIONREAD, &n);
        r.say("FIONREAD {}", n);
        r.say("SO_ERROR {}", r.so_error(fd));
        r.ret("shutdown", shutdown(fd, SHUT_WR));
        r.rd("recv", fd, 8);
    });
    for (bool signal : {false, true}) {
        t.pair(std::format("close/write-after-peer-closed{}", signal ? "-sigpipe" : ""), [=](role& r, int fd) {
            catch_signal(SIGPIPE);
            int flags = signal ? 0 : MSG_NOSIGNAL;
            r.until(fd, POLLRDHUP);
            r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
            r.wr("first send", fd, "a", flags);
            r.poll_is("poll", fd, POLLIN | POLLOUT | POLLRDHUP, POLLERR | POLLHUP);
            r.wr("second send", fd, "b", flags);
            r.wr("third send", fd, "c", flags);
            r.ret("write", write(fd, "d", 1));
            r.say("SIGPIPE {}", signals_seen(SIGPIPE));
            r.rd("recv", fd, 4);
            r.say("SO_ERROR {}", r.so_error(fd));
        }, [](role&, int fd) { close(fd); });
    }
    t.pair("close/error-after-late-write-by-so-error", [](role& r, int fd) {
        r.until(fd, POLLRDHUP);
        r.wr("first send", fd, "a");
        r.until(fd, POLLERR);
        r.say("SO_ERROR {}", r.so_error(fd));
        r.say("SO_ERROR {}", r.so_error(fd));
        r.poll_now("poll", fd, POLLIN | POLLOUT | POLLRDHUP);
        r.wr("second send", fd, "b");
        r.rd("recv", fd, 4);
    }, [](role&, int fd) { close(fd); });
    t.pair("close/error-after-late-write-by-recv", [](role& r, int fd) {
        r.until(fd, POLLRDHUP);
        r.wr("first send", fd, "a");
        r.until(fd, POLLERR);
        r.rd("recv", fd, 4);
        r.rd("recv", fd, 4);
    }, [](role&, int fd) { close(fd); });
    t.pair("close/read-data-after-late-write", [](role& r, int fd) {
        r.until(fd, POLLRDHUP);
        r.wr("first send", fd, "a");
        r.until(fd, POLLERR);
        r.rd("recv", fd, 16);
        r.rd("recv", fd, 16);
        r.rd("recv", fd, 16);
    }, [](role& r, int fd) {
        r.put(fd, "last data");
        close(fd);
    });
    t.pair("close/simultaneous", [](role& r, int fd) {
        r.put(fd, "a");
        r.get("get", fd, 1);
        r.meet();
        r.okay("close", close(fd));
    }, [](role& r, int fd) {
        r.put(fd, "b");
        r.get("get", fd, 1);
        r.meet();
        r.okay("close", close(fd));
    });
    t.pair("close/simultaneous-with-unread", [](role& r, int fd) {
        r.put(fd, "a");
        r.bytes(fd, 1);
        r.meet();
        r.okay("close", close(fd));
    }, [](role& r, int fd) {
        r.put(fd, "b");
        r.bytes(fd, 1);
        r.meet();
        r.okay("close", close(fd));
    });
    t.pair("close/twice", [](role& r, int fd) {
        r.okay("close", close(fd));
        r.okay("close", close(fd));
        r.rd("recv", fd, 1);
        r.wr("send", fd, "x");
        r.ret("shutdown", shutdown(fd, SHUT_RDWR));
        r.ret("poll", fcntl(fd, F_GETFL));
    }, [](role& r, int fd) { r.eof("end", fd); });
    t.pair("close/half-closed-peer-still-sends", [](role& r, int fd) {
        shutdown(fd, SHUT_WR);
        for (int i = 0; i < 20; i++) {
            r.meet();
            char b[16];
            long n = recv(fd, b, sizeof b, MSG_WAITALL);
            if (n != 16)
                r.got("recv", n, b);
        }
        r.eof("end", fd);
    }, [](role& r, int fd) {
        r.eof("end", fd);
        for (int i = 0; i < 20; i++) {
            r.put(fd, "0123456789abcdef");
            r.meet();
        }
        close(fd);
    });
    t.pair("close/exit-closes", [](role& r, int fd) {
        child_process c([&] {
            r.put(fd, "from the child");
            exit(0);
        });
        close(fd);
        r.say("child {}", c.wait());
    }, [](role& r, int fd) { r.get("get", fd, 64); });
}

}  // namespace

void add_shutdown(table& t) {
    half_close(t);
    closing(t);
}

}  // namespace sockdiff
