// Listens, connects to itself and to a plain echo server (argv[1]: its port), and exchanges bytes, a child with it. A call
// that fails says so, with exit code 1. Wrong bytes are exit code 3, an end of file that nobody sent 4. argv[2]: so many
// descriptors may be open from main() on, beside those that are; then the limit is lifted and everything must work (exit
// code 5). $FAIL_ALLOCATION: which of the allocations in its calls fail (no_memory.h); how many there were is told. With an
// argv[2] there is a second turn then, in which none fails and everything must work (exit code 6). A child that was killed
// is exit code 8.
#define _GNU_SOURCE
#include "no_memory.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES 3000
static char sent[BYTES], got[BYTES];

static int failed(const char* call) {
    fprintf(stderr, "%s: %s\n", call, strerror(errno));
    return 1;
}

static int pass(int from, int to) {
    for (size_t at = 0; at < BYTES;) {
        ssize_t n = LACKING(send(from, sent + at, BYTES - at, MSG_NOSIGNAL));
        if (n < 0) {
            return failed("send");
        }
        at += (size_t)n;
    }
    memset(got, 0, sizeof got);
    for (size_t at = 0; at < BYTES;) {
        ssize_t n = LACKING(recv(to, got + at, BYTES - at, 0));
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

// A child that uses the connection.
static int relative(int from, int to) {
    int status;
    const pid_t child = (pid_t)LACKING(fork());
    if (child < 0) {
        return failed("fork");
    }
    if (child == 0) {
        alarm(20);
        _exit(pass(from, to));
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 8;
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
    if ((fds[0] = (int)LACKING(socket(AF_INET, SOCK_STREAM, 0))) < 0) {
        return failed("socket");
    }
    if (bind(fds[0], (struct sockaddr*)&a, sizeof a) != 0 || getsockname(fds[0], (struct sockaddr*)&a, &len) != 0) {
        return failed("bind");
    }
    if (LACKING(listen(fds[0], 8)) != 0) {
        return failed("listen");
    }
    if ((fds[1] = (int)LACKING(socket(AF_INET, SOCK_STREAM, 0))) < 0) {
        return failed("socket");
    }
    if (LACKING(connect(fds[1], (struct sockaddr*)&a, sizeof a)) != 0) {
        return failed("connect");
    }
    if ((fds[2] = (int)LACKING(accept4(fds[0], NULL, NULL, 0))) < 0) {
        return failed("accept");
    }
    int e = pass(fds[1], fds[2]);
    e = e != 0 ? e : pass(fds[2], fds[1]);
    e = e != 0 ? e : relative(fds[1], fds[2]);
    return e != 0 ? e : pass(fds[1], fds[2]);
}

static int carried(int fds[3], int port) {
    struct sockaddr_in a = loopback(port);
    if ((fds[0] = (int)LACKING(socket(AF_INET, SOCK_STREAM, 0))) < 0) {
        return failed("socket");
    }
    if (LACKING(connect(fds[0], (struct sockaddr*)&a, sizeof a)) != 0) {
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
                LACKING(close(fds[k]));
            }
        }
    }
    return outcome;
}

static int talk_without_memory(int port, int again) {
    const int all = atoi(getenv("FAIL_ALLOCATION")) == -1;
    char* volatile copy = (char*)LACKING(strdup("by libc, which is to find our malloc"));
    if (allocations() != 1 || (copy == NULL) != all) {
        fprintf(stderr, "allocations are not ours to refuse\n");
        return 7;
    }
    free(copy);
    const int outcome = talk(port);
    fprintf(stderr, "allocations: %ld\n", allocations() - 1);
    setenv("FAIL_ALLOCATION", "0", 1);
    return outcome <= 1 && again && talk(port) != 0 ? 6 : outcome;
}

int main(int argc, char** argv) {
    for (size_t i = 0; i < BYTES; ++i) {
        sent[i] = (char)(i * 7 + 1);
    }
    alarm(20);
    getppid();  // a trace shows where main() begins
    if (getenv("FAIL_ALLOCATION") != NULL) {
        return talk_without_memory(atoi(argv[1]), argc > 2);
    }
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
