// The serving sides. `serve` is blocking and takes one connection after the other; `serve_epoll` echoes on any number.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "net.hh"

namespace bench {

namespace {

void echo(int fd) {
    static char buffer[read_bytes];
    for (;;) {
        ssize_t got = read(fd, buffer, sizeof buffer);
        if (got <= 0 || !write_all(fd, buffer, size_t(got))) {
            return;
        }
    }
}

void answer(int fd) {
    static char data[message_bytes_max];
    char bytes[request_bytes];
    if (!read_all(fd, bytes, sizeof bytes)) {
        return;
    }
    request r;
    memcpy(&r, bytes, sizeof r);
    switch (r.what) {
    case wish::stream:
        if (r.size == 0 || r.size > message_bytes_max) {
            die_text("a message size beyond the limit was asked for");
        }
        while (write_all(fd, data, r.size)) {
        }
        return;
    case wish::echo: return echo(fd);
    case wish::once:
        write_all(fd, bytes, sizeof bytes);
        read_all(fd, bytes, 1);  // the client closes first
        return;
    }
    die_text("a request that is none");
}

}  // namespace

int serve(const endpoint& at, const options& o) {
    int listener = listen_on(at, o.congestion);
    for (;;) {
        int fd = checked(accept_from(listener, 0), "accept");
        answer(fd);
        close(fd);
    }
}

int serve_epoll(const endpoint& at, const options& o) {
    static char buffer[read_bytes];
    int listener = listen_on(at, o.congestion);
    int set = checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    epoll_event e{.events = EPOLLIN, .data = {.fd = listener}};
    checked(epoll_ctl(set, EPOLL_CTL_ADD, listener, &e), "epoll_ctl");
    for (;;) {
        epoll_event found[64];
        int n = epoll_wait(set, found, 64, -1);
        if (n < 0 && errno != EINTR) {
            die("epoll_wait");
        }
        for (int i = 0; i < n; ++i) {
            int fd = found[i].data.fd;
            if (fd == listener) {
                e.data.fd = checked(accept_from(listener, SOCK_NONBLOCK), "accept");
                checked(epoll_ctl(set, EPOLL_CTL_ADD, e.data.fd, &e), "epoll_ctl");
                continue;
            }
            ssize_t got = read(fd, buffer, sizeof buffer);
            if (got < 0 && errno == EAGAIN) {
                continue;
            }
            // Messages are small and answered one by one: what is read also fits in.
            if (got <= 0 || !write_all(fd, buffer, size_t(got))) {
                close(fd);
            }
        }
    }
}

}  // namespace bench
