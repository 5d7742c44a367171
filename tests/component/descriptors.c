/* What a program does with the descriptors of its connections. A thread of its own echoes at the other end.
 *   descriptors messages     sendmmsg() and recvmmsg() hand one over; the sender closes its own before it is received
 *   descriptors refused      dup3() calls that fail leave their target as it was
 *   descriptors handlers     a signal handler closes connections, connects and forks while the program connects
 * Exits with 0, or says what is wrong. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sockaddr_in server;

static void die(const char *what) {
    perror(what);
    exit(1);
}
static void wrong(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void *echo(void *arg) {
    int fd = (int)(long)arg;
    char b[64];
    for (ssize_t n; (n = read(fd, b, sizeof b)) > 0;) {
        if (write(fd, b, (size_t)n) != n) {
            break;
        }
    }
    close(fd);
    return NULL;
}

static void *take(void *arg) {
    int l = (int)(long)arg;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    for (;;) {
        int fd = accept(l, NULL, NULL);
        pthread_t t;
        if (fd < 0 || pthread_create(&t, NULL, echo, (void *)(long)fd) != 0) {
            die("accept");
        }
        pthread_detach(t);
    }
    return NULL;
}

static void serve(void) {
    int l = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t len = sizeof server;
    server.sin_family = AF_INET;
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(l, (struct sockaddr *)&server, sizeof server) != 0 || listen(l, 512) != 0 ||
        getsockname(l, (struct sockaddr *)&server, &len) != 0) {
        die("listen");
    }
    pthread_t t;
    if (pthread_create(&t, NULL, take, (void *)(long)l) != 0) {
        die("thread");
    }
}

static int reach(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&server, sizeof server) != 0) {
        die("connect");
    }
    return fd;
}

static void expect_echo(int fd, const char *who) {
    char b[8] = "";
    struct timeval limit = {10, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (write(fd, "hello", 5) != 5 || recv(fd, b, 5, MSG_WAITALL) != 5 || memcmp(b, "hello", 5) != 0) {
        perror(who);
        wrong("no echo");
    }
}

static void messages(void) {
    int pair[2], c = reach(), got = -1;
    expect_echo(c, "before");
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) != 0) {
        die("socketpair");
    }
    char texts[2][4], control[2][CMSG_SPACE(sizeof(int))];
    struct iovec iov[2] = {{texts[0], 4}, {texts[1], 4}};
    struct mmsghdr m[2];
    memset(m, 0, sizeof m);
    memset(control, 0, sizeof control);
    for (int i = 0; i < 2; ++i) {
        m[i].msg_hdr.msg_iov = &iov[i];
        m[i].msg_hdr.msg_iovlen = 1;
    }
    m[1].msg_hdr.msg_control = control[1];
    m[1].msg_hdr.msg_controllen = sizeof control[1];
    struct cmsghdr *h = CMSG_FIRSTHDR(&m[1].msg_hdr);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof c);
    memcpy(CMSG_DATA(h), &c, sizeof c);
    if (sendmmsg(pair[0], m, 2, 0) != 2) {
        die("sendmmsg");
    }
    close(c);
    for (int i = 0; i < 2; ++i) {
        m[i].msg_hdr.msg_control = control[i];
        m[i].msg_hdr.msg_controllen = sizeof control[i];
    }
    if (recvmmsg(pair[1], m, 2, 0, NULL) != 2) {
        die("recvmmsg");
    }
    h = CMSG_FIRSTHDR(&m[1].msg_hdr);
    if (h == NULL || CMSG_FIRSTHDR(&m[0].msg_hdr) != NULL) {
        wrong("the descriptor did not come with the second message");
    }
    memcpy(&got, CMSG_DATA(h), sizeof got);
    expect_echo(got, "after");
}

static void expect_refusal(int r, int err, const char *what) {
    if (r != -1 || errno != err) {
        perror(what);
        wrong("not refused, or with another errno");
    }
}

static void refused(void) {
    int null = open("/dev/null", O_RDWR), c = reach();
    expect_refusal(dup3(null, c, 0x4242), EINVAL, "flags");
    expect_echo(c, "after bad flags");
    expect_refusal(dup3(1023, c, 0), EBADF, "no such descriptor");
    expect_echo(c, "after a bad descriptor");
    int high = fcntl(c, F_DUPFD, 200);
    struct rlimit limit;
    if (high < 0 || getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        die("a high number");
    }
    limit.rlim_cur = 100;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
        die("setrlimit");
    }
    close(c);
    expect_refusal(dup3(null, high, 0), EBADF, "beyond the limit");
    expect_refusal(dup2(null, high), EBADF, "beyond the limit");
    expect_echo(high, "after the limit");
}

enum { stock_bytes = 200 };
static int stock[stock_bytes];
static volatile sig_atomic_t left = 0, children = 0;

static void on_alarm(int s) {
    (void)s;
    int saved = errno;
    if (left > 0) {
        close(stock[--left]);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (left % 4 == 0 && connect(fd, (struct sockaddr *)&server, sizeof server) == 0 && write(fd, "x", 1) != 1) {
            abort();
        }
        close(fd);
        if (left % 16 == 0) {
            pid_t child = fork();
            if (child == 0) {
                int own = socket(AF_INET, SOCK_STREAM, 0);
                _exit(connect(own, (struct sockaddr *)&server, sizeof server) == 0 ? 0 : 1);
            }
            children += child > 0;
        }
    }
    errno = saved;
}

static void handlers(void) {
    for (left = 0; left < stock_bytes; ++left) {
        stock[left] = reach();
    }
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_alarm;
    a.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &a, NULL);
    struct itimerval often = {{0, 700}, {0, 700}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &often, NULL);
    while (left > 0) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&server, sizeof server) != 0 && errno != EINTR) {
            die("connect");
        }
        close(fd);
    }
    setitimer(ITIMER_REAL, &never, NULL);
    int status = 0;
    for (; children > 0; --children) {
        if (wait(&status) < 0 || status != 0) {
            wrong("a child that the handler forked failed");
        }
    }
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    if (sigismember(&now, SIGALRM) || sigismember(&now, SIGTERM)) {
        wrong("signals are still blocked");
    }
    expect_echo(reach(), "afterwards");
}

int main(int n, char **words) {
    serve();
    if (n == 2 && strcmp(words[1], "messages") == 0) {
        messages();
    } else if (n == 2 && strcmp(words[1], "refused") == 0) {
        refused();
    } else if (n == 2 && strcmp(words[1], "handlers") == 0) {
        handlers();
    } else {
        wrong("messages, refused or handlers");
    }
    return 0;
}
