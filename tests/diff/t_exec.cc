// vfork, posix_spawn and exec with inherited sockets; descriptors passed over unix sockets.
#include "sockdiff.hh"

#include <spawn.h>
#include <stdlib.h>

extern char** environ;

namespace sockdiff {

// What a re-executed sockdiff does: NAME FD [CTL RUN]
//

int helper_main(int argc, char** argv) {
    std::string what = argv[0];
    int fd = argc > 1 ? atoi(argv[1]) : -1;
    char b[64];
    if (what == "echo") {  // one message back, upper case
        long n = recv(fd, b, sizeof b, 0);
        for (long i = 0; i < n; i++)
            b[i] = static_cast<char>(toupper(b[i]));
        return n > 0 && send(fd, b, n, MSG_NOSIGNAL) == n ? 0 : 10;
    }
    if (what == "hold") {  // until the peer says something
        return recv(fd, b, sizeof b, 0) > 0 ? 0 : 11;
    }
    if (what == "accept") {
        int c = accept(fd, nullptr, nullptr);
        return c >= 0 && send(c, "from exec", 9, MSG_NOSIGNAL) == 9 ? 0 : 12;
    }
    if (what == "isopen")
        return fcntl(fd, F_GETFD) >= 0 ? 20 : 21;
    if (what == "epoll") {
        int ep = epoll_create1(0);
        epoll_event e{};
        e.events = EPOLLIN | EPOLLET;
        if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e) < 0)
            return 13;
        if (epoll_wait(ep, &e, 1, 4000) != 1)
            return 14;
        return recv(fd, b, sizeof b, MSG_DONTWAIT) > 0 ? 0 : 15;
    }
    if (what == "nonblock")
        return (fcntl(fd, F_GETFL) & O_NONBLOCK) && recv(fd, b, 1, 0) < 0 && errno == EAGAIN ? 0 : 16;
    if (what == "names") {
        endpoint me = name_of(fd), peer = peer_of(fd);
        std::string s = std::format("{} {} {}", me.host(), peer.host(), me.port() != 0 && peer.port() != 0);
        return send(fd, s.data(), s.size(), MSG_NOSIGNAL) > 0 ? 0 : 17;
    }
    return 99;
}

namespace {

// Starts `sockdiff --helper NAME FD` or another program; returns how it ended.
pid_t launch_fork(std::vector<std::string> args, int in = -1, int out = -1) {
    std::vector<char*> argv;
    for (auto& a : args)
        argv.push_back(a.data());
    argv.push_back(nullptr);
    pid_t pid = fork();
    if (pid == 0) {
        if (in >= 0)
            dup2(in, 0);
        if (out >= 0)
            dup2(out, 1);
        execvp(argv[0], argv.data());
        _exit(127);
    }
    return pid;
}

[[gnu::noinline]] pid_t vfork_exec(char** argv) {
    pid_t pid = vfork();
    if (pid == 0) {
        execvp(argv[0], argv);
        _exit(127);
    }
    return pid;
}

pid_t launch_vfork(std::vector<std::string> args, int in = -1, int out = -1) {
    std::vector<char*> argv;
    for (auto& a : args)
        argv.push_back(a.data());
    argv.push_back(nullptr);
    int have_in = in >= 0 ? dup(0) : -1, have_out = out >= 0 ? dup(1) : -1;
    if (in >= 0)
        dup2(in, 0);
    if (out >= 0)
        dup2(out, 1);
    pid_t pid = vfork_exec(argv.data());
    if (in >= 0)
        dup2(have_in, 0), close(have_in);
    if (out >= 0)
        dup2(have_out, 1), close(have_out);
    return pid;
}

pid_t launch_spawn(std::vector<std::string> args, int in = -1, int out = -1) {
    std::vector<char*> argv;
    for (auto& a : args)
        argv.push_back(a.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    if (in >= 0)
        posix_spawn_file_actions_adddup2(&actions, in, 0);
    if (out >= 0)
        posix_spawn_file_actions_adddup2(&actions, out, 1);
    pid_t pid = -1;
    if (posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ) != 0)
        pid = -1;
    posix_spawn_file_actions_destroy(&actions);
    return pid;
}

pid_t launch_double_fork(std::vector<std::string> args, int in = -1, int out = -1) {
    pid_t pid = fork();
    if (pid == 0) {
        int st = 0;
        waitpid(launch_fork(args, in, out), &st, 0);
        _exit(WIFEXITED(st) ? WEXITSTATUS(st) : 98);
    }
    return pid;
}

std::string ended(pid_t pid) {
    int st = 0;
    while (waitpid(pid, &st, 0) < 0) {
        if (errno != EINTR)
            return "wait " + errno_name(errno);
    }
    return WIFSIGNALED(st) ? std::format("signal {}", WTERMSIG(st)) : std::format("exit {}", WEXITSTATUS(st));
}

struct launcher {
    const char* name;
    pid_t (*start)(std::vector<std::string>, int, int);
};
const launcher launchers[] = {{"fork-exec", launch_fork},
                              {"vfork-exec", launch_vfork},
                              {"posix_spawn", launch_spawn},
                              {"fork-fork-exec", launch_double_fork}};

std::vector<std::string> helper(const char* name, int fd) {
    return {self_path(), "--helper", name, std::to_string(fd)};
}

void execs(table& t) {
    for (auto& l : launchers) {
        std::string p = std::string("exec/") + l.name;
        t.pair(p + "-echo", [&l](role& r, int fd) {
            r.say("{}", ended(l.start(helper("echo", fd), -1, -1)));
            r.put(fd, "!");
        }, [](role& r, int fd) {
            r.put(fd, "hello");
            r.get("get", fd, 6);
        });
        t.pair(p + "-data-waiting", [&l](role& r, int fd) {
            r.bytes(fd, 10);
            r.rd("recv", fd, 5);
            r.say("{}", ended(l.start(helper("echo", fd), -1, -1)));
        }, [](role& r, int fd) {
            r.put(fd, "firstlater");
            r.get("get", fd, 5);
        });
        t.pair(p + "-cat-as-stdio", [&l](role& r, int fd) {
            pid_t pid = l.start({"cat"}, fd, fd);
            close(fd);
            r.say("{}", ended(pid));
        }, [](role& r, int fd) {
            r.put(fd, "through cat");
            r.get("get", fd, 11);
            r.put(fd, pattern(20000));
            r.get("get", fd, 20000);
            shutdown(fd, SHUT_WR);
            r.eof("end", fd);
        });
        t.pair(p + "-shell-as-stdio", [&l](role& r, int fd) {
            r.say("{}", ended(l.start({"sh", "-c", "read line; echo \"got $line\"; exit 3"}, fd, fd)));
        }, [](role& r, int fd) {
            r.put(fd, "one line\n");
            r.get("get", fd, 13);
        });
        t.pair(p + "-cloexec", [&l](role& r, int fd) {
            r.say("inherited: {}", ended(l.start(helper("isopen", fd), -1, -1)));
            fcntl(fd, F_SETFD, FD_CLOEXEC);
            r.say("closed: {}", ended(l.start(helper("isopen", fd), -1, -1)));
            r.put(fd, "alive");
        }, [](role& r, int fd) { r.get("get", fd, 5); });
        t.add(p + "-listener", [&l](role& r) {
            int fd = r.serve();
            r.say("{}", ended(l.start(helper("accept", fd), -1, -1)));
            r.put(r.take(fd), "parent");
            r.meet();
        }, [](role& r) {
            int port = r.hear_num();
            r.get("first", r.dial(port), 64);
            r.get("second", r.dial(port), 6);
            r.meet();
        });
    }
    t.pair("exec/holds-the-connection", [](role& r, int fd) {
        pid_t pid = launch_fork(helper("hold", fd));
        close(fd);
        r.meet();
        r.say("{}", ended(pid));
    }, [](role& r, int fd) {
        r.meet();
        r.poll_now("open", fd, POLLIN | POLLOUT | POLLRDHUP);
        r.put(fd, "x");
        r.eof("end", fd);
    });
    t.pair("exec/epoll-in-the-new-program",
           [](role& r, int fd) { r.say("{}", ended(launch_fork(helper("epoll", fd)))); }, [](role& r, int fd) {
        nap(30);
        r.put(fd, "x");
    });
    t.pair("exec/nonblock-is-kept", [](role& r, int fd) {
        fcntl(fd, F_SETFL, O_NONBLOCK);
        r.say("{}", ended(launch_fork(helper("nonblock", fd))));
    }, [](role&, int) {});
    t.pair("exec/addresses-are-kept", [](role& r, int fd) { r.say("{}", ended(launch_fork(helper("names", fd)))); },
           [](role& r, int fd) { r.get("get", fd, r.family == AF_INET ? 24 : 12); });
    t.pair("exec/failed", [](role& r, int fd) {
        r.say("{}", ended(launch_vfork({"/nowhere/at/all"})));
        r.say("{}", ended(launch_fork({"/nowhere/at/all"})));
        r.put(fd, "alive");
        r.get("get", fd, 2);
    }, [](role& r, int fd) {
        r.get("get", fd, 5);
        r.put(fd, "ok");
    });
    t.pair("exec/self-in-place", [](role& r, int fd) {
        child_process c([&] {
            auto args = helper("echo", fd);
            execl(args[0].c_str(), args[0].c_str(), args[1].c_str(), args[2].c_str(), args[3].c_str(), nullptr);
        });
        close(fd);
        r.say("{}", c.wait());
    }, [](role& r, int fd) {
        r.put(fd, "hello");
        r.get("get", fd, 5);
        r.eof("end", fd);
    });
    t.pair("exec/system-and-popen", [](role& r, int fd) {
        r.say("system {}", WEXITSTATUS(system("exit 7")));
        FILE* f = popen("echo from popen", "r");
        char b[32] = {};
        if (!f || !fgets(b, sizeof b, f))
            r.say("popen failed");
        r.say("popen {} {}", shown(b), f ? pclose(f) : -1);
        r.put(fd, "alive");
    }, [](role& r, int fd) { r.get("get", fd, 5); });
}

int send_fd(int over, int fd) {
    char b = 'f';
    iovec v{&b, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr m{};
    m.msg_iov = &v;
    m.msg_iovlen = 1;
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    auto c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    return static_cast<int>(sendmsg(over, &m, 0));
}

int receive_fd(int over) {
    char b;
    iovec v{&b, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr m{};
    m.msg_iov = &v;
    m.msg_iovlen = 1;
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    if (recvmsg(over, &m, 0) < 1)
        return -1;
    auto c = CMSG_FIRSTHDR(&m);
    int fd = -1;
    if (c && c->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return fd;
}

void passing(table& t) {
    t.pair("rights/to-a-child", [](role& r, int fd) {
        int s[2];
        socketpair(AF_UNIX, SOCK_STREAM, 0, s);
        gate go;
        int copy = fcntl(fd, F_DUPFD, 400);
        close(fd);
        child_process c([&] {
            close(copy);
            int got = receive_fd(s[1]);
            r.okay("received", got);
            r.get("child", got, 5);
            r.wr("child sends", got, "reply");
        });
        int sent = send_fd(s[0], copy);
        close(copy);
        r.say("child {}", c.wait());
        r.say("sendmsg {}", sent);
    }, [](role& r, int fd) {
        r.put(fd, "hello");
        r.get("get", fd, 5);
        r.eof("end", fd);
    });
    t.add("rights/to-an-unrelated-process", [](role& r) {
        // The receiver was forked before the socket existed.
        int s[2];
        socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s);
        child_process c([&] {
            int got = receive_fd(s[1]);
            r.okay("received", got);
            r.yes("peer known", peer_of(got).port() != 0);
            r.get("receiver", got, 5);
            r.wr("receiver sends", got, "reply");
        });
        int fd = r.take(r.serve());
        int sent = send_fd(s[0], fd);
        close(fd);
        r.say("child {}", c.wait());
        r.say("sendmsg {}", sent);
        r.meet();
    }, [](role& r) {
        int fd = r.dial(r.hear_num());
        r.put(fd, "hello");
        r.get("get", fd, 5);
        r.eof("end", fd);
        r.meet();
    });
    t.pair("rights/to-itself", [](role& r, int fd) {
        int s[2];
        socketpair(AF_UNIX, SOCK_STREAM, 0, s);
        r.ret("sendmsg", send_fd(s[0], fd));
        close(fd);
        int got = receive_fd(s[1]);
        r.okay("received", got);
        r.wr("send", got, "kept alive");
        close(got);
    }, [](role& r, int fd) {
        r.get("get", fd, 10);
        r.eof("end", fd);
    });
    t.add("rights/listener-to-a-child", [](role& r) {
        int s[2];
        socketpair(AF_UNIX, SOCK_STREAM, 0, s);
        child_process c([&] {
            int got = receive_fd(s[1]);
            r.put(r.take(got), "by the receiver");
        });
        int fd = r.serve();
        int sent = send_fd(s[0], fd);
        close(fd);
        r.say("child {}", c.wait());
        r.say("sendmsg {}", sent);
    }, [](role& r) { r.get("get", r.dial(r.hear_num()), 64); });
}

}  // namespace

void add_exec(table& t) {
    execs(t);
    passing(t);
}

}  // namespace sockdiff
