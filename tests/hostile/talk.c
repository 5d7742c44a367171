// Listens, connects to itself and to a plain echo server (argv[1]: its port), and exchanges bytes. A call that fails says
// so, with exit code 1. Wrong bytes are exit code 3, an end of file that nobody sent 4. argv[2]: so many descriptors may be
// open from main() on, beside those that are; then the limit is lifted and everything must work (exit code 5).
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define BYTES 3000
static char sent[BYTES], got[BYTES];

static int failed(const char* call) {
    fprintf(stderr, "%s: %s\n", call, strerror(errno));
    return 1;
}

static int pass(int from, int to) {
    for (size_t at = 0; at < BYTES;) {
        ssize_t n = send(from, sent + at, BYTES - at, MSG_NOSIGNAL);
        if (n < 0) {
            return failed("send");
        }
        at += (size_t)n;
    }
    memset(got, 0, sizeof got);
    for (size_t at = 0; at < BYTES;) {
        ssize_t n = recv(to, got + at, BYTES - at, 0);
        if (n < 0) {
            return failed("recv");
        }
        if (n == 0) {
            fprintf(stderr, "end of file after %zu bytes\n", at);
            return 4;
        }
        at += (size_t)n;
    }
    return memcmp(sent, got, BYTES) == 0 ? 0 : 3;
}

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

// What is opened is closed, however it ends.
static int local(int fds[3]) {
    struct sockaddr_in a = loopback(0);
    socklen_t len = sizeof a;
    if ((fds[0] = socket(AF_INET, SOCK_STREAM, 0)) < 0) {
        return failed("socket");
    }
    if (bind(fds[0], (struct sockaddr*)&a, sizeof a) != 0 || getsockname(fds[0], (struct sockaddr*)&a, &len) != 0) {
        return failed("bind");
    }
    if (listen(fds[0], 8) != 0) {
        return failed("listen");
    }
    if ((fds[1] = socket(AF_INET, SOCK_STREAM, 0)) < 0) {
        return failed("socket");
    }
    if (connect(fds[1], (struct sockaddr*)&a, sizeof a) != 0) {
        return failed("connect");
    }
    if ((fds[2] = accept4(fds[0], NULL, NULL, 0)) < 0) {
        return failed("accept");
    }
    int e = pass(fds[1], fds[2]);
    return e != 0 ? e : pass(fds[2], fds[1]);
}

static int carried(int fds[3], int port) {
    struct sockaddr_in a = loopback(port);
    if ((fds[0] = socket(AF_INET, SOCK_STREAM, 0)) < 0) {
        return failed("socket");
    }
    if (connect(fds[0], (struct sockaddr*)&a, sizeof a) != 0) {
        return failed("connect");
    }
    return pass(fds[0], fds[0]);
}

static int talk(int port) {
    int outcome = 0;
    for (int i = 0; i < 2; ++i) {
        int fds[3] = {-1, -1, -1};
        int e = i == 0 ? local(fds) : carried(fds, port);
        outcome = e > outcome ? e : outcome;
        for (int k = 0; k < 3; ++k) {
            if (fds[k] >= 0) {
                close(fds[k]);
            }
        }
    }
    return outcome;
}

int main(int argc, char** argv) {
    for (size_t i = 0; i < BYTES; ++i) {
        sent[i] = (char)(i * 7 + 1);
    }
    alarm(20);
    getppid();  // a trace shows where main() begins
    if (argc < 3) {
        return talk(atoi(argv[1]));
    }
    struct rlimit before, few;
    getrlimit(RLIMIT_NOFILE, &before);
    few = before;
    few.rlim_cur = (rlim_t)(dup(0) + atoi(argv[2]));
    close((int)few.rlim_cur - atoi(argv[2]));
    setrlimit(RLIMIT_NOFILE, &few);
    int outcome = talk(atoi(argv[1]));
    setrlimit(RLIMIT_NOFILE, &before);
    if (outcome <= 1 && talk(atoi(argv[1])) != 0) {
        return 5;
    }
    return outcome;
}
