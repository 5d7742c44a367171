// recv and send with their flags, zero lengths, FIONREAD, vectors.
#include "sockdiff.hh"

#include <limits.h>

namespace sockdiff {
namespace {

pair_body sends(std::string text) {
    return [text](role& r, int fd) {
        r.put(fd, text);
        r.meet();
    };
}

pair_body sends_then(std::string text) {
    return [text](role& r, int fd) {
        r.meet();
        r.put(fd, text);
    };
}

void fionread(role& r, int fd) {
    int n = -1;
    int rv = ioctl(fd, FIONREAD, &n);
    r.say("FIONREAD -> {} {}", rv, n);
}

void peeking(table& t) {
    t.pair("data/peek", [](role& r, int fd) {
        r.meet();
        r.bytes(fd, 10);
        r.rd("peek 4", fd, 4, MSG_PEEK);
        r.rd("peek 4", fd, 4, MSG_PEEK);
        r.rd("peek 64", fd, 64, MSG_PEEK);
        r.rd("recv 4", fd, 4);
        r.rd("peek 64", fd, 64, MSG_PEEK);
        fionread(r, fd);
        r.rd("peek trunc", fd, 2, MSG_PEEK | MSG_TRUNC);
        r.rd("peek waitall, enough", fd, 6, MSG_PEEK | MSG_WAITALL);
        r.rd("recv 64", fd, 64);
        r.rd("peek dontwait", fd, 64, MSG_PEEK | MSG_DONTWAIT);
    }, sends("abcdefghij"));
    t.pair("data/peek-blocks", [](role& r, int fd) {
        r.meet();
        r.rd("peek", fd, 64, MSG_PEEK);
        r.rd("recv", fd, 64);
    }, [](role& r, int fd) {
        r.meet();
        nap(settle_ms);
        r.put(fd, "late");
    });
    t.pair("data/peek-waitall-cut-by-eof", [](role& r, int fd) {
        r.rd("peek", fd, 64, MSG_PEEK | MSG_WAITALL);
        r.rd("recv", fd, 64);
        r.rd("peek at end", fd, 64, MSG_PEEK);
    }, [](role& r, int fd) {
        r.put(fd, "short");
        shutdown(fd, SHUT_WR);
    });
    t.pair("data/peek-waitall-waits", [](role& r, int fd) {
        r.bytes(fd, 3);
        r.meet();
        r.rd("peek", fd, 6, MSG_PEEK | MSG_WAITALL);
        r.rd("recv", fd, 64);
    }, [](role& r, int fd) {
        r.put(fd, "abc");
        r.meet();
        nap(settle_ms);
        r.put(fd, "def");
    });
    t.pair("data/peek-keeps-readable", [](role& r, int fd) {
        r.bytes(fd, 3);
        for (int i = 0; i < 3; i++) {
            r.rd("peek", fd, 8, MSG_PEEK);
            r.poll_now("poll", fd, POLLIN | POLLOUT);
        }
        r.rd("recv", fd, 8);
        r.poll_now("poll", fd, POLLIN | POLLOUT);
    }, [](role& r, int fd) { r.put(fd, "abc"); });
}

void waiting(table& t) {
    t.pair("data/waitall", [](role& r, int fd) {
        r.meet();
        r.rd("waitall", fd, 12, MSG_WAITALL);
        r.rd("waitall", fd, 12, MSG_WAITALL);
        r.rd("recv", fd, 12);
    }, [](role& r, int fd) {
        r.meet();
        for (auto s : {"abc", "def", "ghi", "jkl", "mno"}) {
            r.put(fd, s);
            nap(10);
        }
        shutdown(fd, SHUT_WR);
    });
    t.pair("data/waitall-dontwait", [](role& r, int fd) {
        r.meet();
        r.bytes(fd, 3);
        r.rd("recv", fd, 12, MSG_WAITALL | MSG_DONTWAIT);
        r.rd("recv", fd, 12, MSG_WAITALL | MSG_DONTWAIT);
    }, sends("abc"));
    t.pair("data/waitall-nonblocking-fd", [](role& r, int fd) {
        fcntl(fd, F_SETFL, O_NONBLOCK);
        r.meet();
        r.bytes(fd, 3);
        r.rd("recv", fd, 12, MSG_WAITALL);
        r.rd("recv", fd, 12, MSG_WAITALL);
    }, sends("abc"));
    t.pair("data/waitall-recvmsg-vector", [](role& r, int fd) {
        char a[3], b[4], c[5];
        iovec v[] = {{a, 3}, {b, 4}, {c, 5}};
        msghdr m{};
        m.msg_iov = v;
        m.msg_iovlen = 3;
        r.ret("recvmsg", recvmsg(fd, &m, MSG_WAITALL));
        r.say("{} {} {} flags {}", shown({a, 3}), shown({b, 4}), shown({c, 5}), m.msg_flags);
    }, [](role& r, int fd) {
        for (auto s : {"12", "3456", "78", "9012"}) {
            r.put(fd, s);
            nap(5);
        }
    });
    t.pair("data/dontwait", [](role& r, int fd) {
        r.rd("recv", fd, 4, MSG_DONTWAIT);
        r.meet();
        r.bytes(fd, 3);
        r.rd("recv", fd, 64, MSG_DONTWAIT);
        r.rd("recv", fd, 64, MSG_DONTWAIT);
        r.say("flags still blocking {}", !(fcntl(fd, F_GETFL) & O_NONBLOCK));
        r.wr("send", fd, "x", MSG_DONTWAIT);
    }, sends_then("abc"));
    t.pair("data/send-dontwait-until-full", [](role& r, int fd) {
        std::string b(1 << 16, 'x');
        long n;
        size_t total = 0;
        while ((n = send(fd, b.data(), b.size(), MSG_DONTWAIT)) > 0)
            total += n;
        r.ret("full", n);
        r.say("total is plausible {}", total > 1000);
        r.meet();
        r.tell_num(static_cast<long>(total));
        r.wr("blocking send", fd, "last");
        shutdown(fd, SHUT_WR);
    }, [](role& r, int fd) {
        r.meet();
        size_t want = r.hear_num() + 4, total = 0;
        std::string b(1 << 16, 0);
        long n;
        while ((n = recv(fd, b.data(), b.size(), 0)) > 0)
            total += n;
        r.yes("all there", total == want);
        r.ret("end", n);
    });
    t.pair("data/trunc-discards", [](role& r, int fd) {
        r.meet();
        r.bytes(fd, 10);
        char b[5] = "----";
        r.ret("recv trunc 4", recv(fd, b, 4, MSG_TRUNC));
        r.say("buffer untouched {}", shown(std::string_view(b, 4)));
        r.rd("recv", fd, 64);
        r.rd("trunc on empty", fd, 4, MSG_TRUNC | MSG_DONTWAIT);
    }, sends("abcdefghij"));
    t.pair("data/trunc-null-buffer", [](role& r, int fd) {
        r.meet();
        r.bytes(fd, 10);
        r.ret("recv trunc", recv(fd, nullptr, 4, MSG_TRUNC));
        r.rd("recv", fd, 64);
    }, sends("abcdefghij"));
}

void zero_lengths(table& t) {
    t.pair("data/zero-length-recv", [](role& r, int fd) {
        char b[1];
        r.ret("read 0, nothing there", read(fd, b, 0));
        r.ret("recv 0, nothing there, dontwait", recv(fd, b, 0, MSG_DONTWAIT));
        r.meet();
        r.bytes(fd, 3);
        r.ret("read 0", read(fd, b, 0));
        r.ret("recv 0", recv(fd, b, 0, 0));
        r.ret("recv 0 peek", recv(fd, b, 0, MSG_PEEK));
        r.ret("recv 0 null", recv(fd, nullptr, 0, 0));
        iovec v{b, 0};
        r.ret("readv 0", readv(fd, &v, 1));
        r.ret("readv none", readv(fd, &v, 0));
        msghdr m{};
        r.ret("recvmsg none", recvmsg(fd, &m, 0));
        r.rd("recv", fd, 8);
    }, sends_then("abc"));
    t.pair("data/zero-length-recv-nonblocking", [](role& r, int fd) {
        char b[1];
        fcntl(fd, F_SETFL, O_NONBLOCK);
        r.ret("read 0", read(fd, b, 0));
        r.ret("recv 0", recv(fd, b, 0, 0));
        r.ret("recv 0 peek", recv(fd, b, 0, MSG_PEEK));
        msghdr m{};
        r.ret("recvmsg none", recvmsg(fd, &m, 0));
    }, [](role&, int) {});
    t.pair("data/zero-length-send", [](role& r, int fd) {
        r.ret("write 0", write(fd, "x", 0));
        r.ret("send 0", send(fd, "x", 0, 0));
        r.ret("send 0 null", send(fd, nullptr, 0, 0));
        iovec v{nullptr, 0};
        r.ret("writev 0", writev(fd, &v, 1));
        r.ret("writev none", writev(fd, &v, 0));
        msghdr m{};
        r.ret("sendmsg none", sendmsg(fd, &m, 0));
        r.meet();
    }, [](role& r, int fd) {
        r.meet();
        r.poll_now("poll", fd, POLLIN | POLLOUT);
        fionread(r, fd);
    });
    t.pair("data/zero-length-after-end", [](role& r, int fd) {
        r.until(fd, POLLRDHUP);
        char b[1];
        r.ret("read 0", read(fd, b, 0));
        r.ret("recv 0", recv(fd, b, 0, 0));
        shutdown(fd, SHUT_WR);
        r.ret("send 0", send(fd, b, 0, MSG_NOSIGNAL));
        catch_signal(SIGPIPE);
        r.ret("write 0", write(fd, b, 0));
        r.say("SIGPIPE {}", signals_seen(SIGPIPE));
    }, [](role&, int fd) { shutdown(fd, SHUT_WR); });
    t.pair("data/fionread", [](role& r, int fd) {
        fionread(r, fd);
        r.meet();
        r.bytes(fd, 10);
        fionread(r, fd);
        r.rd("recv", fd, 3);
        fionread(r, fd);
        r.rd("peek", fd, 3, MSG_PEEK);
        fionread(r, fd);
        r.meet();
        r.bytes(fd, 11);
        fionread(r, fd);
        r.rd("recv", fd, 64);
        r.until(fd, POLLRDHUP);
        fionread(r, fd);
        int n = 0;
        r.ret("SIOCINQ null", ioctl(fd, FIONREAD, nullptr));
        r.ret("bad ioctl", ioctl(fd, 0x5444, &n));
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "abcdefghij");
        r.meet();
        r.put(fd, "klmn");
        shutdown(fd, SHUT_WR);
    });
    t.pair("data/outq-drains", [](role& r, int fd) {
        r.put(fd, "abc");
        r.eventually("an empty output queue", [&] {
            int n = -1;
            return ioctl(fd, TIOCOUTQ, &n) == 0 && n == 0;
        });
        int n = -1;
        r.ret("TIOCOUTQ", ioctl(fd, TIOCOUTQ, &n));
        r.say("value {}", n);
    }, [](role& r, int fd) { r.get("get", fd, 3); });
}

void vectors(table& t) {
    t.pair("data/readv-writev", [](role& r, int fd) {
        char a[] = "one", b[] = "", c[] = "three", d[] = "4";
        iovec v[] = {{a, 3}, {b, 0}, {c, 5}, {nullptr, 0}, {d, 1}};
        r.ret("writev", writev(fd, v, 5));
        r.meet();
        r.bytes(fd, 12);
        char e[5], f[1], g[16];
        iovec w[] = {{e, 5}, {nullptr, 0}, {f, 1}, {g, 16}};
        r.ret("readv", readv(fd, w, 4));
        r.say("{} {} {}", shown({e, 5}), shown({f, 1}), shown({g, 6}));
    }, [](role& r, int fd) {
        r.bytes(fd, 9);
        r.rd("recv", fd, 64);
        r.put(fd, "twelve bytes");
        r.meet();
    });
    for (int count : {IOV_MAX, IOV_MAX + 1}) {
        t.pair(std::format("data/iov-{}", count), [=](role& r, int fd) {
            std::string data = pattern(3 * count, 5);
            std::vector<iovec> v(count);
            for (int i = 0; i < count; i++)
                v[i] = {data.data() + 3 * i, 3};
            msghdr m{};
            m.msg_iov = v.data();
            m.msg_iovlen = v.size();
            r.ret("writev", writev(fd, v.data(), count));
            r.ret("sendmsg", sendmsg(fd, &m, MSG_NOSIGNAL));
            r.meet();
            if (count <= IOV_MAX)
                r.bytes(fd, 3 * count);
            r.ret("readv", readv(fd, v.data(), count));
            r.ret("recvmsg dontwait", recvmsg(fd, &m, MSG_DONTWAIT));
            r.say("hash {:x}", hash_more(0, data.data(), data.size()));
            volatile int negative = -1;
            r.ret("negative", readv(fd, v.data(), negative));
        }, [=](role& r, int fd) {
            if (count <= IOV_MAX)
                r.get("get", fd, 6 * count);
            r.put(fd, pattern(3 * count, 9));
            r.meet();
        });
    }
    t.pair("data/iov-length-overflow", [](role& r, int fd) {
        static char b[16];
        iovec v[] = {{b, static_cast<size_t>(-1)}, {b, 8}};
        r.ret("writev", writev(fd, v, 2));
        r.ret("readv", readv(fd, v, 2));
        msghdr m{};
        m.msg_iov = v;
        m.msg_iovlen = 2;
        r.ret("sendmsg", sendmsg(fd, &m, MSG_NOSIGNAL));
    }, [](role&, int) {});
    t.pair("data/bad-pointers", [](role& r, int fd) {
        r.bytes(fd, 3);
        char* volatile nowhere = reinterpret_cast<char*>(8);
        char* bad = nowhere;
        size_t n = 4;
        r.ret("recv", recv(fd, bad, n, 0));
        r.ret("read", read(fd, bad, n));
        r.ret("send", send(fd, bad, n, MSG_NOSIGNAL));
        r.ret("write", write(fd, bad, n));
        r.ret("sendmsg", sendmsg(fd, reinterpret_cast<msghdr*>(bad), 0));
        r.rd("recv", fd, 8);
    }, [](role& r, int fd) { r.put(fd, "abc"); });
    t.pair("data/one-byte-at-a-time", [](role& r, int fd) {
        std::string s = pattern(500, 3);
        for (char c : s) {
            if (send(fd, &c, 1, MSG_NOSIGNAL) != 1)
                r.say("send failed");
        }
        r.get("back", fd, 500);
    }, [](role& r, int fd) {
        std::string s;
        char c;
        while (s.size() < 500 && read(fd, &c, 1) == 1)
            s += c;
        r.say("{}", shown(s));
        r.put(fd, s);
    });
    t.pair("data/separate-sends-make-a-stream", [](role& r, int fd) {
        for (auto s : {"a", "bc", "def", "ghij"})
            r.put(fd, s);
        r.meet();
    }, [](role& r, int fd) {
        r.meet();
        r.bytes(fd, 10);
        r.rd("all in one", fd, 64);
    });
    t.pair("data/more-then-flush", [](role& r, int fd) {
        r.wr("send more", fd, "head ", MSG_NOSIGNAL | MSG_MORE);
        r.wr("send more", fd, "body ", MSG_NOSIGNAL | MSG_MORE);
        r.wr("send", fd, "tail");
        r.meet();
        r.wr("send more and leave it", fd, "corked", MSG_NOSIGNAL | MSG_MORE);
        r.meet();
        r.wr("send more, then end", fd, "final", MSG_NOSIGNAL | MSG_MORE);
        shutdown(fd, SHUT_WR);
    }, [](role& r, int fd) {
        r.get("get", fd, 14);
        r.meet();
        r.get("arrives without a flush", fd, 6);
        r.meet();
        r.get("get", fd, 64);
    });
}

void cork(role& r, std::string_view what, int fd, int name, int on) {
    r.ret(what, setsockopt(fd, IPPROTO_TCP, name, &on, sizeof on));
}

// Less than the 200 ms after which the kernel sends it anyway, with room for a busy machine on both sides.
constexpr int moment_ms = 30, soon_ms = 120;
void wait_a_moment() { usleep(moment_ms * 1000); }

void holding_back(table& t) {
    // What is held back comes together with what follows it.
    t.pair("data/cork-and-more-hold-back", [](role& r, int fd) {
        cork(r, "cork", fd, TCP_CORK, 1);
        r.wr("send", fd, "ab");
        wait_a_moment();
        r.wr("send", fd, "cd");
        cork(r, "uncork", fd, TCP_CORK, 0);
        r.meet();
        r.wr("send more", fd, "ef", MSG_NOSIGNAL | MSG_MORE);
        wait_a_moment();
        r.wr("send", fd, "gh");
        r.meet();
        cork(r, "cork", fd, TCP_CORK, 1);
        r.wr("send", fd, "left alone");
        r.meet();
    }, [](role& r, int fd) {
        r.rd("after the cork", fd, 64);
        r.meet();
        r.rd("after more", fd, 64);
        r.meet();
        r.get("comes by itself", fd, 10);
        r.meet();
    });
    t.pair("data/cork-is-ended-by-nodelay-and-urgent-data", [](role& r, int fd) {
        cork(r, "cork", fd, TCP_CORK, 1);
        for (int i = 0; i < 2; ++i) {
            r.wr("send", fd, "ab");
            cork(r, "nodelay", fd, TCP_NODELAY, 1);
            r.meet();
        }
        r.wr("send", fd, "cd");
        r.wr("urgent", fd, "!", MSG_NOSIGNAL | MSG_OOB);
        r.meet();
        r.wr("send", fd, "the last");
        shutdown(fd, SHUT_WR);
        r.meet();
    }, [](role& r, int fd) {
        for (int i = 0; i < 3; ++i) {
            r.until(fd, POLLIN, soon_ms);
            r.rd("at once", fd, 64, MSG_DONTWAIT);
            r.meet();
        }
        r.until(fd, POLLRDHUP, soon_ms);
        r.get("the rest", fd, 64);
        r.meet();
    });
    t.pair("data/cork-lets-full-segments-pass", [](role& r, int fd) {
        cork(r, "cork", fd, TCP_CORK, 1);
        r.put(fd, std::string(100000, 'x'));
        r.meet();
        r.meet();
    }, [](role& r, int fd) {
        r.bytes(fd, 65000, soon_ms);
        int there = 0;
        ioctl(fd, FIONREAD, &there);
        r.yes("a part is held back", there < 100000);
        r.meet();
        r.bytes(fd, 100000);
        r.meet();
    });
    t.add("data/cork-is-inherited", [](role& r) {
        int fd = r.bound();
        cork(r, "listener", fd, TCP_CORK, 1);
        listen(fd, 4);
        r.tell_num(name_of(fd).port());
        int c = r.take(fd);
        r.say("accepted {}", r.opt(c, IPPROTO_TCP, TCP_CORK));
        r.wr("send", c, "ab");
        wait_a_moment();
        r.wr("send", c, "cd");
        cork(r, "uncork", c, TCP_CORK, 0);
        r.rd("from the client", c, 64);
        r.meet();
    }, [](role& r) {
        int fd = r.sock();
        cork(r, "before connect", fd, TCP_CORK, 1);
        if (!r.connect_to(fd, int(r.hear_num()))) {
            return;
        }
        r.rd("from the server", fd, 64);
        r.wr("send", fd, "ef");
        wait_a_moment();
        r.wr("send", fd, "gh");
        cork(r, "uncork", fd, TCP_CORK, 0);
        r.meet();
    });
    // A sender that is killed, or closes, takes nothing along.
    for (const bool killed : {false, true}) {
        t.add(killed ? "data/cork-of-a-killed-sender" : "data/cork-of-a-child", [](role& r) {
            int fd = r.take(r.serve());
            r.get("get", fd, 64);
        }, [killed](role& r) {
            const auto port = int(r.hear_num());
            child_process p([&] {
                int fd = r.sock(), on = 1;
                r.connect_to(fd, port);
                setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof on);
                (void)!write(fd, "corked", 6);
                if (killed) {
                    kill(getpid(), SIGKILL);
                }
                child_process of_child([&] { (void)!write(fd, ", in the child", 14); });
                of_child.wait();
                (void)!write(fd, ", after it", 10);
                close(fd);
            });
            r.say("{}", p.wait());
        });
    }
}

}  // namespace

void add_data(table& t) {
    peeking(t);
    waiting(t);
    zero_lengths(t);
    vectors(t);
    holding_back(t);
}

}  // namespace sockdiff
