/* accept() without waiting, right after connect() has returned: how many of COUNT succeed?
 *
 *   accept_after_connect one 4|6 blocking|polled COUNT            one thread does both
 *   accept_after_connect fresh 4|6 blocking|polled COUNT          the same, with a new listener each time
 *   accept_after_connect serve 4|6 blocking|polled COUNT IN OUT   the listener's process: tells its port through OUT,
 *                                                                 accepts once for each byte from IN, answers with one
 *   accept_after_connect dial 4|6 blocking|polled COUNT IN OUT    the other one
 *
 * A connection that comes late is waited for and counted. Each carries a byte. Prints a line of JSON. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int family, polled, count, in_fd = -1, out_fd = -1;
static int at_once, late;

static void need(int good, const char* what) {
    if (good)
        return;
    perror(what);
    exit(1);
}

static socklen_t loopback(struct sockaddr_storage* a, int port) {
    memset(a, 0, sizeof *a);
    a->ss_family = family;
    if (family == AF_INET) {
        ((struct sockaddr_in*)a)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        ((struct sockaddr_in*)a)->sin_port = htons(port);
        return sizeof(struct sockaddr_in);
    }
    ((struct sockaddr_in6*)a)->sin6_addr = in6addr_loopback;
    ((struct sockaddr_in6*)a)->sin6_port = htons(port);
    return sizeof(struct sockaddr_in6);
}

static int start_listening(int* port) {
    struct sockaddr_storage a;
    socklen_t n = loopback(&a, 0);
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    need(fd >= 0 && bind(fd, (struct sockaddr*)&a, n) == 0 && listen(fd, 64) == 0, "listen");
    need(getsockname(fd, (struct sockaddr*)&a, &n) == 0, "getsockname");
    *port = ntohs(family == AF_INET ? ((struct sockaddr_in*)&a)->sin_port : ((struct sockaddr_in6*)&a)->sin6_port);
    return fd;
}

static int dial(int port) {
    struct sockaddr_storage a;
    socklen_t n = loopback(&a, port);
    int fd = socket(family, SOCK_STREAM | (polled ? SOCK_NONBLOCK : 0), 0);
    need(fd >= 0, "socket");
    int done = connect(fd, (struct sockaddr*)&a, n);
    if (polled && done < 0 && errno == EINPROGRESS) {
        struct pollfd p = {fd, POLLOUT, 0};
        int error = 0;
        socklen_t size = sizeof error;
        need(poll(&p, 1, 5000) == 1, "poll");
        need(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0, "SO_ERROR");
        errno = error;
        done = error ? -1 : 0;
    }
    need(done == 0, "connect");
    return fd;
}

static int take(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0) {
        at_once++;
        return fd;
    }
    need(errno == EAGAIN, "accept4");
    struct pollfd p = {listener, POLLIN, 0};
    need(poll(&p, 1, 5000) == 1, "no connection came");
    fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    need(fd >= 0, "accept4 after poll");
    late++;
    return fd;
}

static void both_ends(int fresh) {
    int port, listener = start_listening(&port);
    for (int i = 0; i < count; i++) {
        char b = 'x';
        if (fresh && i) {
            close(listener);
            listener = start_listening(&port);
        }
        int c = dial(port), s = take(listener);
        need(send(c, &b, 1, 0) == 1 && recv(s, &b, 1, 0) == 1, "byte");
        close(c);
        close(s);
    }
}

static void serve(void) {
    int port, listener = start_listening(&port);
    need(write(out_fd, &port, sizeof port) == sizeof port, "tell the port");
    for (int i = 0; i < count; i++) {
        char b;
        need(read(in_fd, &b, 1) == 1, "hear of a connect");
        int s = take(listener);
        need(recv(s, &b, 1, 0) == 1, "byte");
        close(s);
        need(write(out_fd, &b, 1) == 1, "answer");
    }
}

static void dial_another(void) {
    int port;
    need(read(in_fd, &port, sizeof port) == sizeof port, "hear the port");
    for (int i = 0; i < count; i++) {
        char b = 'x';
        int c = dial(port);
        need(write(out_fd, &b, 1) == 1, "tell of the connect");
        need(send(c, &b, 1, 0) == 1, "byte");
        need(read(in_fd, &b, 1) == 1, "hear of the accept");
        close(c);
    }
}

int main(int argc, char** argv) {
    int fresh = argc == 5 && !strcmp(argv[1], "fresh");
    int one = fresh || (argc == 5 && !strcmp(argv[1], "one"));
    if (!one && argc != 7) {
        fprintf(stderr, "usage: one|fresh|serve|dial 4|6 blocking|polled COUNT [IN OUT]\n");
        return 2;
    }
    family = argv[2][0] == '6' ? AF_INET6 : AF_INET;
    polled = !strcmp(argv[3], "polled");
    count = atoi(argv[4]);
    if (!one) {
        in_fd = atoi(argv[5]);
        out_fd = atoi(argv[6]);
    }
    if (one)
        both_ends(fresh);
    else if (!strcmp(argv[1], "serve"))
        serve();
    else
        dial_another();
    printf("{\"at_once\": %d, \"late\": %d}\n", at_once, late);
    return 0;
}
