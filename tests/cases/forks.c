/* Forks of which libc tells nobody: by system calls, _Fork() and clone().
 *   forks serve HOW          prints its port; a child for each connection sends back what comes
 *   forks connect PORT HOW   parent and child use the connection they have in turn, and make more at the same time
 * HOW: fork, _Fork, clone, sys-fork, sys-clone, sys-clone3. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { connections = 8, block = 20000, rounds = 20 };

static int in_child(void* then) {
    ((void (*)(void))then)();
    _exit(9);
}

/* The child does `then`, which ends it. */
static pid_t forks(const char* how, void (*then)(void)) {
    static char stack[256 << 10] __attribute__((aligned(16)));
    struct clone_args args = {.exit_signal = SIGCHLD};
    pid_t pid = -1;
    if (strcmp(how, "clone") == 0)
        return clone(in_child, stack + sizeof stack, SIGCHLD, (void*)then);
    if (strcmp(how, "fork") == 0)
        pid = fork();
    else if (strcmp(how, "_Fork") == 0)
        pid = _Fork();
    else if (strcmp(how, "sys-fork") == 0)
        pid = (pid_t)syscall(SYS_fork);
    else if (strcmp(how, "sys-clone") == 0)
        pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    else if (strcmp(how, "sys-clone3") == 0)
        pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0)
        then();
    return pid;
}

static void must(int fine, const char* what) {
    if (!fine) {
        fprintf(stderr, "%d: %s\n", (int)getpid(), what);
        _exit(1);
    }
}

static int served = -1;
static void echo(void) {
    char b[block];
    ssize_t n;
    while ((n = read(served, b, sizeof b)) > 0)
        for (ssize_t at = 0, put; at < n; at += put)
            must((put = write(served, b + at, (size_t)(n - at))) > 0, "write");
    _exit(n == 0 ? 0 : 2);
}

static void serve(const char* how) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int l = socket(AF_INET, SOCK_STREAM, 0);
    must(bind(l, (void*)&a, sizeof a) == 0 && listen(l, 64) == 0, "listen");
    getsockname(l, (void*)&a, &len);
    printf("%d\n", ntohs(a.sin_port));
    fflush(stdout);
    for (;;) {
        must((served = accept(l, NULL, NULL)) >= 0, "accept");
        must(forks(how, echo) > 0, "fork");
        close(served);
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
    }
}

static struct sockaddr_in to = {.sin_family = AF_INET};
static int dial(void) {
    int s = socket(AF_INET, SOCK_STREAM, 0);
    must(connect(s, (void*)&to, sizeof to) == 0, "connect");
    return s;
}

/* Sends bytes that nobody else sends, and wants them back. */
static void exchange(int s, unsigned seed) {
    char out[block], in[block];
    size_t got = 0;
    for (size_t i = 0; i < block; i++)
        out[i] = (char)(seed * 31 + i * 7 + i / 251);
    must(write(s, out, block) == block, "write");
    for (ssize_t n; got < block; got += (size_t)n)
        must((n = read(s, in + got, block - got)) > 0, "read");
    must(memcmp(in, out, block) == 0, "bytes of another connection");
}

static void several(unsigned seed) {
    int s[connections];
    for (int i = 0; i < connections; i++)
        s[i] = dial();
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < connections; i++)
            exchange(s[i], seed + (unsigned)(r * connections + i));
    for (int i = 0; i < connections; i++)
        close(s[i]);
}

static int shared = -1, turn[2];
static void child(void) {
    several(100000);
    exchange(shared, 3);
    close(shared);
    must(write(turn[1], "x", 1) == 1, "turn");
    _exit(0);
}

int main(int argc, char** argv) {
    (void)argc;
    if (strcmp(argv[1], "serve") == 0)
        serve(argv[2]);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons((uint16_t)atoi(argv[2]));
    shared = dial();
    exchange(shared, 1);
    must(pipe(turn) == 0, "pipe");
    const pid_t pid = forks(argv[3], child);
    must(pid > 0, "fork");
    several(5000);
    char c;
    int how = 0;
    must(read(turn[0], &c, 1) == 1, "the child's word");
    must(waitpid(pid, &how, 0) == pid && how == 0, "the child's end");
    exchange(shared, 7);
    several(9000);
    puts("fine");
    return 0;
}
