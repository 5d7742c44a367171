// Many bytes, many rounds, many connections.
#include "sockdiff.hh"

namespace sockdiff {
namespace {

constexpr int long_ms = 20000;

// A stream that is easy to check: byte i is a function of i alone.
char byte_at(uint64_t i, unsigned seed) { return static_cast<char>((i * 2654435761u + seed + (i >> 16) * 97) >> 11); }

struct sender {
    unsigned seed;
    uint64_t at = 0;
    std::string piece(size_t n) {
        std::string s(n, 0);
        for (auto& c : s)
            c = byte_at(at++, seed);
        return s;
    }
};

bool send_stream(int fd, uint64_t total, size_t chunk, unsigned seed) {
    sender s{seed};
    while (s.at < total) {
        std::string p = s.piece(std::min<uint64_t>(chunk, total - s.at));
        for (size_t done = 0; done < p.size();) {
            long n = send(fd, p.data() + done, p.size() - done, MSG_NOSIGNAL);
            if (n < 0 && errno == EINTR)
                continue;
            if (n < 0 && errno == EAGAIN) {
                pollfd f{fd, POLLOUT, 0};
                if (poll(&f, 1, 5000) != 1)
                    return false;
                continue;
            }
            if (n <= 0)
                return false;
            done += n;
        }
    }
    return true;
}

std::string receive_stream(int fd, uint64_t total, size_t chunk, unsigned seed, int nap_every = 0) {
    std::string b(chunk, 0);
    uint64_t at = 0;
    for (int rounds = 1; at < total; rounds++) {
        long n = recv(fd, b.data(), std::min<uint64_t>(chunk, total - at), 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            pollfd f{fd, POLLIN, 0};
            if (poll(&f, 1, 5000) != 1)
                return "no more data after a while";
            continue;
        }
        if (n < 0)
            return errno_name(errno);
        if (n == 0)
            return "early end";
        for (long i = 0; i < n; i++) {
            if (b[i] != byte_at(at + i, seed))
                return "wrong bytes";
        }
        at += n;
        if (nap_every && rounds % nap_every == 0)
            nap(1);
    }
    return "right";
}

void transfers(table& t) {
    struct shape {
        const char* name;
        uint64_t total;
        size_t send_chunk, recv_chunk;
        int nap_every;
        bool nonblocking;
    };
    for (auto s :
         {shape{"large-chunks", 16 << 20, 1 << 20, 1 << 18, 0, false},
          shape{"small-chunks", 1 << 20, 100, 1 << 16, 0, false}, shape{"odd-chunks", 4 << 20, 4097, 1021, 0, false},
          shape{"slow-reader", 8 << 20, 1 << 20, 1 << 16, 4, false},
          shape{"nonblocking", 16 << 20, 1 << 18, 1 << 16, 0, true},
          shape{"nonblocking-slow-reader", 8 << 20, 1 << 20, 1 << 15, 16, true}}) {
        t.pair(std::string("bulk/one-way-") + s.name, [=](role& r, int fd) {
            if (s.nonblocking)
                fcntl(fd, F_SETFL, O_NONBLOCK);
            r.yes("sent", send_stream(fd, s.total, s.send_chunk, 1));
            shutdown(fd, SHUT_WR);
        }, [=](role& r, int fd) {
            if (s.nonblocking)
                fcntl(fd, F_SETFL, O_NONBLOCK);
            r.say("{}", receive_stream(fd, s.total, s.recv_chunk, 1, s.nap_every));
            r.eof("end", fd);
        }, long_ms);
    }
    for (bool threads : {true, false}) {
        auto both = [=](role& r, int fd) {
            if (threads) {
                bool sent = false;
                std::thread w([&] { sent = send_stream(fd, 8 << 20, 50000, r.server); });
                r.say("{}", receive_stream(fd, 8 << 20, 70000, !r.server));
                w.join();
                r.yes("sent", sent);
            } else {
                child_process w([&] {
                    if (!send_stream(fd, 8 << 20, 50000, r.server))
                        _exit(1);
                });
                r.say("{}", receive_stream(fd, 8 << 20, 70000, !r.server));
                r.say("sender {}", w.wait());
            }
            r.meet();
        };
        t.add(threads ? "bulk/both-ways-threads" : "bulk/both-ways-forked", [=](role& r) { both(r, r.pair()); },
              [=](role& r) {
            both(r, r.pair());
        }).timeout(long_ms);
    }
    t.pair("bulk/one-big-blocking-write", [](role& r, int fd) {
        std::string s = pattern(24 << 20);
        r.ret("write", write(fd, s.data(), s.size()));
        r.say("hash {:x}", hash_more(0, s.data(), s.size()));
        shutdown(fd, SHUT_WR);
    }, [](role& r, int fd) {
        uint64_t h = 0;
        std::string b(1 << 18, 0);
        size_t total = 0;
        for (long n; (n = read(fd, b.data(), b.size())) > 0; total += n) {
            h = hash_more(h, b.data(), n);
            if (total < 1 << 20)
                nap(5);
        }
        r.say("{} hash {:x}", total, h);
    }, long_ms);
    t.pair("bulk/one-big-waitall", [](role& r, int fd) {
        std::string s(8 << 20, 0);
        r.ret("recv", recv(fd, s.data(), s.size(), MSG_WAITALL));
        r.yes("same", s == pattern(8 << 20));
    }, [](role& r, int fd) { r.put(fd, pattern(8 << 20)); }, long_ms);
    t.pair("bulk/peek-then-read", [](role& r, int fd) {
        std::string all, a(5000, 0), b(5000, 0);
        bool same = true;
        while (all.size() < 1 << 20) {
            long n = recv(fd, a.data(), a.size(), MSG_PEEK);
            if (n <= 0)
                break;
            long k = recv(fd, b.data(), n, 0);
            same &= k == n && !memcmp(a.data(), b.data(), k);
            all.append(b, 0, std::max(k, 0L));
        }
        r.say("same {} all {}", same, all == pattern(1 << 20));
    }, [](role& r, int fd) { r.put(fd, pattern(1 << 20)); }, long_ms);
    t.pair("bulk/small-buffers", [](role& r, int fd) {
        int v = 16384;
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &v, sizeof v);
        r.yes("sent", send_stream(fd, 1 << 18, 30000, 3));
    }, [](role& r, int fd) {
        int v = 16384;  // smaller ones make the kernel wait for window probes, 0.2 s each
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &v, sizeof v);
        r.say("{}", receive_stream(fd, 1 << 18, 3000, 3));
    }, long_ms);
}

void rounds(table& t) {
    t.pair("bulk/ping-pong", [](role& r, int fd) {
        int bad = 0;
        for (int i = 0; i < 1000; i++) {
            char c = static_cast<char>(i), d = 0;
            bad += send(fd, &c, 1, MSG_NOSIGNAL) != 1 || recv(fd, &d, 1, 0) != 1 || c != d;
            if (bad)
                break;
        }
        r.say("bad {}", bad);
        shutdown(fd, SHUT_WR);
    }, [](role& r, int fd) {
        char c;
        int n = 0;
        for (; recv(fd, &c, 1, 0) == 1; n++)
            send(fd, &c, 1, MSG_NOSIGNAL);
        r.say("{}", n);
    }, long_ms);
    t.pair("bulk/ping-pong-poll", [](role& r, int fd) {
        int bad = 0;
        fcntl(fd, F_SETFL, O_NONBLOCK);
        for (int i = 0; i < 1000 && !bad; i++) {
            char c = static_cast<char>(i), d = 0;
            bad += send(fd, &c, 1, MSG_NOSIGNAL) != 1;
            pollfd p{fd, POLLIN, 0};
            bad += poll(&p, 1, 3000) != 1 || recv(fd, &d, 1, 0) != 1 || c != d;
            bad += recv(fd, &d, 1, 0) != -1 || errno != EAGAIN;
        }
        r.say("bad {}", bad);
        shutdown(fd, SHUT_WR);
    }, [](role& r, int fd) {
        char c;
        int n = 0, ep = epoll_create1(0);
        epoll_event e;
        r.ep_ctl("", ep, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET, 0);
        while (epoll_wait(ep, &e, 1, 4000) == 1 && recv(fd, &c, 1, 0) == 1)
            n += send(fd, &c, 1, MSG_NOSIGNAL) == 1;
        r.say("{}", n);
    }, long_ms);
    t.pair("bulk/request-answer-sizes", [](role& r, int fd) {
        int bad = 0;
        for (size_t n = 1; n < 300000 && !bad; n = n * 3 + 1) {
            std::string s = pattern(n), b(n, 0);
            uint32_t len = static_cast<uint32_t>(n);
            send(fd, &len, 4, MSG_MORE | MSG_NOSIGNAL);
            r.put(fd, s);
            bad += recv(fd, b.data(), n, MSG_WAITALL) != static_cast<long>(n) || b != s;
        }
        r.say("bad {}", bad);
        shutdown(fd, SHUT_WR);
    }, [](role& r, int fd) {
        uint32_t len;
        int n = 0;
        for (; recv(fd, &len, 4, MSG_WAITALL) == 4; n++) {
            std::string b(len, 0);
            if (recv(fd, b.data(), len, MSG_WAITALL) != static_cast<long>(len))
                break;
            r.put(fd, b);
        }
        r.say("{}", n);
    }, long_ms);
}

void storms(table& t) {
    t.add("bulk/connect-send-close", [](role& r) {
        int fd = r.serve(64), good = 0;
        for (int i = 0; i < 200; i++) {
            int c = r.take(fd);
            char b[16] = {};
            good += recv(c, b, 16, MSG_WAITALL) == 8 && atoi(b) == i;
            close(c);
        }
        r.say("good {}", good);
    }, [](role& r) {
        int port = r.hear_num();
        for (int i = 0; i < 200; i++) {
            int fd = r.dial(port);
            r.put(fd, std::format("{:08}", i));
            close(fd);
        }
    }).timeout(long_ms);
    t.add("bulk/connect-answer-close", [](role& r) {
        int fd = r.serve(64);
        for (int i = 0; i < 200; i++) {
            int c = r.take(fd);
            r.put(c, std::format("{:08}", i));
            close(c);
        }
        r.meet();
    }, [](role& r) {
        int port = r.hear_num(), good = 0;
        for (int i = 0; i < 200; i++) {
            int fd = r.dial(port);
            char b[16] = {};
            good += recv(fd, b, 16, MSG_WAITALL) == 8 && atoi(b) == i;
            close(fd);
        }
        r.say("good {}", good);
        r.meet();
    }).timeout(long_ms);
    t.add("bulk/refused-many-times", [](role& r) {
        int fd = r.bound();
        r.tell_num(name_of(fd).port());
        r.meet();
    }, [](role& r) {
        int port = r.hear_num(), refused = 0;
        auto a = r.loopback(port);
        for (int i = 0; i < 200; i++) {
            int fd = r.sock();
            refused += connect(fd, a.sa(), a.len) < 0 && errno == ECONNREFUSED;
            close(fd);
        }
        r.say("refused {}", refused);
        r.meet();
    }).timeout(long_ms);
    t.add("bulk/300-connections-at-once", [](role& r) {
        int fd = r.serve(400), ep = epoll_create1(0), answered = 0, ended = 0;
        for (int i = 0; i < 300; i++) {
            int c = r.take(fd);
            r.ep_ctl("", ep, EPOLL_CTL_ADD, c, EPOLLIN, c);
        }
        r.meet();
        epoll_event e[32];
        while (ended < 300) {
            int n = epoll_wait(ep, e, 32, 4000);
            if (n <= 0)
                break;
            for (int i = 0; i < n; i++) {
                char b[8];
                int c = static_cast<int>(e[i].data.u64);
                long k = recv(c, b, 8, 0);
                if (k == 8)
                    answered += send(c, b, 8, MSG_NOSIGNAL) == 8;
                else
                    close(c), ended++;
            }
        }
        r.say("answered {} ended {}", answered, ended);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num(), good = 0;
        std::vector<int> fds;
        for (int i = 0; i < 300; i++)
            fds.push_back(r.dial(port));
        r.meet();
        for (int i = 0; i < 300; i++)
            r.put(fds[i], std::format("{:08}", i));
        for (int i = 299; i >= 0; i--) {
            char b[9] = {};
            good += recv(fds[i], b, 8, MSG_WAITALL) == 8 && atoi(b) == i;
        }
        for (int fd : fds)
            close(fd);
        r.say("good {}", good);
        r.meet();
    }).timeout(long_ms);
    t.add("bulk/nonblocking-connects-at-once", [](role& r) {
        int fd = r.serve(128), n = 0;
        for (; n < 100; n++)
            r.take(fd);
        r.say("accepted {}", n);
        r.meet();
    }, [](role& r) {
        int port = r.hear_num(), ep = epoll_create1(0), up = 0;
        for (int i = 0; i < 100; i++)
            r.ep_ctl("", ep, EPOLL_CTL_ADD, r.dial(port, SOCK_NONBLOCK), EPOLLOUT | EPOLLONESHOT, i);
        epoll_event e[16];
        for (int n; up < 100 && (n = epoll_wait(ep, e, 16, 3000)) > 0; up += n) {
        }
        r.say("up {}", up);
        r.meet();
    }).timeout(long_ms);
}

}  // namespace

void add_bulk(table& t) {
    transfers(t);
    rounds(t);
    storms(t);
}

}  // namespace sockdiff
