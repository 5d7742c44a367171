// Urgent data: MSG_OOB, SO_OOBINLINE, SIOCATMARK, POLLPRI, SIGURG.
#include "sockdiff.hh"

namespace sockdiff {

namespace {

void out_of_band(table& t) {
    t.pair("oob/send-and-receive", [](role& r, int fd) {
        r.rd("nothing yet", fd, 1, MSG_OOB);
        r.meet();
        r.poll_is("poll", fd, POLLIN | POLLPRI, POLLIN | POLLPRI);
        r.rd("oob", fd, 4, MSG_OOB);
        r.rd("oob again", fd, 4, MSG_OOB);
        r.bytes(fd, 2);
        r.rd("up to the mark", fd, 64);
        r.ret("at mark", sockatmark(fd));
        r.rd("beyond", fd, 64);
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "ab");
        r.wr("send oob", fd, "!", MSG_OOB | MSG_NOSIGNAL);
        r.put(fd, "cd");
    });
    t.pair("oob/inline", [](role& r, int fd) {
        int one = 1;
        r.ret("inline", setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &one, sizeof one));
        r.meet();
        r.bytes(fd, 5);
        r.rd("recv", fd, 64);
        r.rd("recv", fd, 64);
    }, [](role& r, int fd) {
        r.meet();
        r.put(fd, "ab");
        r.wr("send oob", fd, "!", MSG_OOB | MSG_NOSIGNAL);
        r.put(fd, "cd");
    });
}

int inq(int fd) {
    int n = -1;
    return ioctl(fd, FIONREAD, &n) == 0 ? n : -errno;
}

std::string selected(int fd) {
    fd_set in, except;
    FD_ZERO(&in);
    FD_ZERO(&except);
    FD_SET(fd, &in);
    FD_SET(fd, &except);
    timeval now{0, 0};
    const int n = select(fd + 1, &in, nullptr, &except, &now);
    return std::format("{}{}{}", n, FD_ISSET(fd, &in) ? " in" : "", FD_ISSET(fd, &except) ? " except" : "");
}

// Sends the pieces one after the other, each when the reader asks for it; one that begins with '!' is urgent.
pair_body sends(std::vector<std::string> pieces) {
    return [pieces](role& r, int fd) {
        for (const auto& p : pieces) {
            r.meet();
            if (p[0] == '!')
                r.wr("send urgent", fd, p.substr(1), MSG_OOB | MSG_NOSIGNAL);
            else
                r.put(fd, p);
            r.meet();
        }
        r.meet();
    };
}
void let_send(role& r) {
    r.meet();
    r.meet();
}

void alone(table& t) {
    t.pair("oob/alone", [](role& r, int fd) {
        fcntl(fd, F_SETFL, O_NONBLOCK);
        let_send(r);
        r.poll_is("poll", fd, POLLIN | POLLPRI, POLLPRI);
        r.poll_now("poll again", fd, POLLIN | POLLPRI);
        r.poll_now("poll for data", fd, POLLIN);
        r.say("select {}", selected(fd));
        r.say("inq {} at mark {}", inq(fd), sockatmark(fd));
        r.rd("peek", fd, 4, MSG_OOB | MSG_PEEK);
        r.rd("oob", fd, 4, MSG_OOB);
        r.poll_now("poll", fd, POLLIN | POLLPRI);
        r.say("inq {} at mark {} select {}", inq(fd), sockatmark(fd), selected(fd));
        r.rd("read", fd, 4);
        r.say("at mark {}", sockatmark(fd));
        let_send(r);
        r.get("then", fd, 2);
        r.meet();
    }, sends({"!x", "ab"}));
    t.pair("oob/a-read-at-the-mark-leaves-it-out", [](role& r, int fd) {
        fcntl(fd, F_SETFL, O_NONBLOCK);
        let_send(r);
        r.until(fd, POLLPRI);
        r.rd("read", fd, 4);
        r.rd("oob", fd, 1, MSG_OOB);
        r.poll_now("poll", fd, POLLIN | POLLPRI);
        r.say("at mark {}", sockatmark(fd));
        r.meet();
    }, sends({"!x"}));
    t.pair("oob/close-with-the-byte-unread", [](role& r, int fd) {
        let_send(r);
        r.until(fd, POLLPRI);
        close(fd);
        r.meet();
        r.meet();
    }, [](role& r, int fd) {
        r.meet();
        r.wr("send urgent", fd, "x", MSG_OOB | MSG_NOSIGNAL);
        r.meet();
        r.meet();
        r.until(fd, POLLHUP);
        r.rd("read", fd, 4);
        r.meet();
    });
}

void among_data(table& t) {
    t.pair("oob/the-last-of-several", [](role& r, int fd) {
        fcntl(fd, F_SETFL, O_NONBLOCK);
        let_send(r);
        r.until(fd, POLLIN | POLLPRI);
        r.say("inq {} at mark {}", inq(fd), sockatmark(fd));
        r.rd("peek", fd, 9, MSG_PEEK);
        r.rd("read", fd, 2);
        r.say("inq {} at mark {}", inq(fd), sockatmark(fd));
        r.rd("read", fd, 9);
        r.poll_now("poll", fd, POLLIN | POLLPRI);
        r.say("inq {} at mark {} select {}", inq(fd), sockatmark(fd), selected(fd));
        r.rd("oob", fd, 9, MSG_OOB);
        r.poll_now("poll", fd, POLLIN | POLLPRI);
        r.rd("oob again", fd, 9, MSG_OOB);
        r.meet();
    }, sends({"!hello"}));
    t.pair("oob/data-behind-it", [](role& r, int fd) {
        let_send(r);
        let_send(r);
        let_send(r);
        r.until(fd, POLLPRI);
        r.rd("read all", fd, 5, MSG_WAITALL);
        r.say("at mark {}", sockatmark(fd));
        r.poll_is("poll", fd, POLLIN | POLLPRI, POLLIN | POLLPRI);
        char byte = 0;
        iovec v{&byte, 1};
        msghdr m{};
        m.msg_iov = &v;
        m.msg_iovlen = 1;
        r.ret("recvmsg", recvmsg(fd, &m, MSG_OOB));
        r.say("'{}' flags {:#x}", byte, m.msg_flags);
        r.get("rest", fd, 2);
        r.poll_now("poll", fd, POLLIN | POLLPRI);
        r.meet();
    }, sends({"ab", "!x", "cd"}));
    t.pair("oob/inline-stops-at-the-mark", [](role& r, int fd) {
        const int one = 1;
        r.ret("inline", setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &one, sizeof one));
        r.say("reads back {}", r.opt(fd, SOL_SOCKET, SO_OOBINLINE));
        let_send(r);
        let_send(r);
        let_send(r);
        r.bytes(fd, 5);
        r.poll_is("poll", fd, POLLIN | POLLPRI, POLLIN | POLLPRI);
        r.rd("oob", fd, 1, MSG_OOB);
        r.rd("read", fd, 9);
        r.say("at mark {}", sockatmark(fd));
        r.poll_now("poll", fd, POLLIN | POLLPRI);
        r.rd("read", fd, 9);
        r.say("at mark {}", sockatmark(fd));
        r.poll_now("poll", fd, POLLIN | POLLPRI);
        r.meet();
    }, sends({"ab", "!x", "cd"}));
    t.pair("oob/one-after-the-other", [](role& r, int fd) {
        for (int i = 0; i < 3; ++i) {
            let_send(r);
            let_send(r);
            r.until(fd, POLLPRI);
            r.rd("oob", fd, 1, MSG_OOB);
            r.get("data", fd, 1);
        }
        r.meet();
    }, sends({"a", "!1", "b", "!2", "c", "!3"}));
}

void who_is_told(table& t) {
    t.pair("oob/sigurg", [](role& r, int fd) {
        catch_signal(SIGURG);
        r.ret("own", fcntl(fd, F_SETOWN, getpid()));
        let_send(r);
        r.eventually("signal", [] { return signals_seen(SIGURG) != 0; });
        r.say("SIGURG {}", signals_seen(SIGURG));
        r.get("data", fd, 2);
        r.rd("oob", fd, 1, MSG_OOB);
        r.meet();
    }, sends({"!abc"}));
    t.pair("oob/wakes-select", [](role& r, int fd) {
        r.meet();
        fd_set except;
        FD_ZERO(&except);
        FD_SET(fd, &except);
        timeval t{2, 0};
        r.ret("select", select(fd + 1, nullptr, nullptr, &except, &t));
        r.rd("oob", fd, 1, MSG_OOB);
        r.meet();
    }, [](role& r, int fd) {
        r.meet();
        nap(settle_ms);
        r.wr("send urgent", fd, "x", MSG_OOB | MSG_NOSIGNAL);
        r.meet();
    });
    t.pair("oob/epoll", [](role& r, int fd) {
        const int ep = epoll_create1(0);
        r.ep_ctl("add", ep, EPOLL_CTL_ADD, fd, EPOLLPRI, 1);
        let_send(r);
        r.ep_is("epoll", ep, EPOLLPRI);
        r.ep_now("again", ep);
        r.rd("oob", fd, 1, MSG_OOB);
        r.ep_now("read", ep);
        let_send(r);
        r.ep_is("epoll", ep, EPOLLPRI);
        r.get("data", fd, 2);
        r.ep_now("before the mark all is read", ep);
        r.rd("oob", fd, 1, MSG_OOB);
        r.ep_now("read", ep);
        r.meet();
    }, sends({"!x", "!abc"}));
}

}  // namespace

void add_urgent(table& t) {
    out_of_band(t);
    alone(t);
    among_data(t);
    who_is_told(t);
}

}  // namespace sockdiff
