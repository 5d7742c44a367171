/* Waits in every way that the library hooks: both ends of a ping-pong, and one end on which nothing ever comes.
 *   waits serve PORT HOW COUNT [SIZE]     waits ping PORT HOW COUNT [SIZE]: the median of a round trip in ns, and what
 *                                   the thread did: voluntary switches, CPU time in us
 *   waits hold PORT               connects, sends nothing, and ends with the other end
 *   waits quiet PORT TEST           serves, and does TEST on the accepted connection; prints what it finds wrong
 * HOW: read epoll epoll_pwait epoll_pwait2 poll ppoll select pselect */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char* what) {
    perror(what);
    exit(1);
}

static struct sockaddr_in at(const char* port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port))};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static int take_one(const char* port) {
    struct sockaddr_in a = at(port);
    int one = 1, l = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(l, (struct sockaddr*)&a, sizeof a) != 0 || listen(l, 8) != 0) {
        die("listen");
    }
    puts("ready");
    fflush(stdout);
    int fd = accept(l, NULL, NULL);
    if (fd < 0) {
        die("accept");
    }
    return fd;
}

static int reach(const char* port) {
    struct sockaddr_in a = at(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (connect(fd, (struct sockaddr*)&a, sizeof a) != 0) {
        die("connect");
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static int set_of(int fd) {
    static int set = -1;
    if (set < 0) {
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        set = epoll_create1(0);
        epoll_ctl(set, EPOLL_CTL_ADD, fd, &e);
    }
    return set;
}

/* timeout_us < 0: none. As the call returns. */
static int wait_for(const char* how, int fd, long timeout_us, const sigset_t* mask) {
    struct epoll_event e;
    struct pollfd p = {fd, POLLIN, 0};
    fd_set s;
    struct timespec ts = {timeout_us / 1000000, timeout_us % 1000000 * 1000}, *pts = timeout_us < 0 ? NULL : &ts;
    struct timeval tv = {timeout_us / 1000000, timeout_us % 1000000};
    int ms = timeout_us < 0 ? -1 : (int)(timeout_us / 1000);
    FD_ZERO(&s);
    FD_SET(fd, &s);
    if (strcmp(how, "epoll") == 0) {
        return epoll_wait(set_of(fd), &e, 1, ms);
    } else if (strcmp(how, "epoll_pwait") == 0) {
        return epoll_pwait(set_of(fd), &e, 1, ms, mask);
    } else if (strcmp(how, "epoll_pwait2") == 0) {
        return epoll_pwait2(set_of(fd), &e, 1, pts, mask);
    } else if (strcmp(how, "poll") == 0) {
        return poll(&p, 1, ms);
    } else if (strcmp(how, "ppoll") == 0) {
        return ppoll(&p, 1, pts, mask);
    } else if (strcmp(how, "select") == 0) {
        int r = select(fd + 1, &s, NULL, NULL, timeout_us < 0 ? NULL : &tv);
        if (r == 0 && (FD_ISSET(fd, &s) || tv.tv_sec != 0 || tv.tv_usec != 0)) {
            puts("select left its set or time");
        }
        return r;
    } else if (strcmp(how, "pselect") == 0) {
        return pselect(fd + 1, &s, NULL, NULL, pts, mask);
    }
    return 1;  /* read: the read itself waits */
}

static void whole(const char* how, int fd, char* p, size_t n) {
    while (n != 0) {
        if (wait_for(how, fd, -1, NULL) != 1) {
            die(how);
        }
        ssize_t r = read(fd, p, n);
        if (r <= 0) {
            die("read");
        }
        p += r;
        n -= (size_t)r;
    }
}

static int by_size(const void* a, const void* b) {
    long long x = *(const long long*)a, y = *(const long long*)b;
    return (x > y) - (x < y);
}

static int ping_pong(int first, int fd, const char* how, int count, size_t size) {
    char* p = calloc(1, size);
    long long* took = calloc((size_t)count, sizeof *took);
    struct rusage before, after;
    for (int i = 0; i < count; ++i) {
        if (i == count / 10) {
            getrusage(RUSAGE_SELF, &before);
        }
        long long began = now_ns();
        if (first && write(fd, p, size) != (ssize_t)size) {
            die("write");
        }
        whole(how, fd, p, size);
        if (!first && write(fd, p, size) != (ssize_t)size) {
            die("write");
        }
        took[i] = now_ns() - began;
    }
    getrusage(RUSAGE_SELF, &after);
    qsort(took, (size_t)count, sizeof *took, by_size);
    long cpu_us = (after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec) *
                      1000000L +
                  after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec;
    printf("{\"median_ns\": %lld, \"p99_ns\": %lld, \"switches\": %ld, \"cpu_us\": %ld}\n", took[count / 2],
           took[count - count / 100 - 1], after.ru_nvcsw - before.ru_nvcsw, cpu_us);
    return 0;
}

static volatile sig_atomic_t handled;
static void handler(int sig) { handled = sig; }

static const char* const ways[] = {"epoll", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect"};
enum { n_ways = sizeof ways / sizeof *ways, tries = 200 };

/* What is no time is said by the kernel. */
static void bad_times(int fd) {
    struct timespec bad[] = {{0, 1000000000}, {-1, 0}, {0, -1}};
    struct epoll_event e;
    for (int i = 0; i < 3; ++i) {
        struct pollfd p = {fd, POLLIN, 0};
        struct timeval tv = {bad[i].tv_sec, bad[i].tv_nsec};
        fd_set s;
        FD_ZERO(&s);
        FD_SET(fd, &s);
        int r[] = {ppoll(&p, 1, &bad[i], NULL), pselect(fd + 1, &s, NULL, NULL, &bad[i], NULL),
                   epoll_pwait2(set_of(fd), &e, 1, &bad[i], NULL)};
        for (int k = 0; k < 3; ++k) {
            if (r[k] != -1) {
                printf("bad time %d of call %d: %d\n", i, k, r[k]);
            }
        }
        if (i > 0 && select(fd + 1, &s, NULL, NULL, &tv) != -1) {
            printf("bad time %d of select\n", i);
        }
    }
}

/* Nothing comes: never early, and late by no more than the scheduler makes it (the median says). */
static void timeouts(int fd) {
    bad_times(fd);
    static const long waits_us[] = {0, 300, 1000, 3000};
    for (int w = 0; w < n_ways; ++w) {
        for (int t = 0; t < 4; ++t) {
            long us = waits_us[t];
            int in_ms = strcmp(ways[w], "epoll") == 0 || strcmp(ways[w], "epoll_pwait") == 0 ||
                        strcmp(ways[w], "poll") == 0;
            if (in_ms && us % 1000 != 0) {
                continue;
            }
            long long took[21];
            for (int i = 0; i < 21; ++i) {
                long long began = now_ns();
                int r = wait_for(ways[w], fd, us, NULL);
                took[i] = now_ns() - began;
                if (r != 0) {
                    printf("%s gives %d after %ld us\n", ways[w], r, us);
                }
                if (took[i] < us * 1000) {
                    printf("%s is early: %lld ns of %ld us\n", ways[w], took[i], us);
                }
            }
            qsort(took, 21, sizeof *took, by_size);
            if (took[10] > us * 1000 + us * 1000 / 8 + 400000) {
                printf("%s is late: %lld ns for %ld us\n", ways[w], took[10], us);
            }
        }
    }
}

/* A signal is pending and blocked; the call's mask lets it in: EINTR, its handler has run, and it is blocked again. */
static void masks(int fd) {
    static const char* const masked[] = {"epoll_pwait", "epoll_pwait2", "ppoll", "pselect"};
    struct sigaction a = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigset_t blocked, open, seen;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, &open);
    sigaction(SIGUSR1, &a, NULL);
    for (int w = 0; w < 4; ++w) {
        for (int i = 0; i < tries; ++i) {
            handled = 0;
            kill(getpid(), SIGUSR1);
            if (wait_for(masked[w], fd, 0, NULL) != 0 || wait_for(masked[w], fd, 1000, NULL) != 0 || handled != 0) {
                printf("%s: a blocked signal came in (errno %d)\n", masked[w], errno);
            }
            errno = 0;
            int r = wait_for(masked[w], fd, -1, &open);
            if (r != -1 || errno != EINTR || handled != SIGUSR1) {
                printf("%s gives %d, errno %d, handled %d\n", masked[w], r, errno, (int)handled);
            }
            sigprocmask(SIG_SETMASK, NULL, &seen);
            if (!sigismember(&seen, SIGUSR1)) {
                printf("%s left its mask\n", masked[w]);
            }
            /* Let in, and nothing pending: the wait lasts. */
            if ((i == 0) && wait_for(masked[w], fd, 2000, &open) != 0) {
                printf("%s was interrupted for nothing\n", masked[w]);
            }
        }
    }
}

/* A signal from outside, later than any spin: EINTR although the handler asks for restarts. */
static void interrupts(int fd) {
    struct sigaction a = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &a, NULL);
    for (int w = 0; w < n_ways; ++w) {
        for (int i = 0; i < 10; ++i) {
            timer_t t;
            /* Again and again: on a busy machine the first may come before the call. */
            struct itimerspec in = {{0, 4000000}, {0, 4000000}};
            timer_create(CLOCK_MONOTONIC, NULL, &t);
            handled = 0;
            timer_settime(t, 0, &in, NULL);
            errno = 0;
            int r = wait_for(ways[w], fd, 2000000, NULL);
            if (r != -1 || errno != EINTR || handled != SIGALRM) {
                printf("%s gives %d, errno %d, handled %d\n", ways[w], r, errno, (int)handled);
            }
            timer_delete(t);
        }
    }
    a.sa_flags = 0;
    sigaction(SIGALRM, &a, NULL);
    for (int i = 0; i < 10; ++i) {
        char c;
        timer_t t;
        struct itimerspec in = {{0, 4000000}, {0, 4000000}};
        timer_create(CLOCK_MONOTONIC, NULL, &t);
        timer_settime(t, 0, &in, NULL);
        errno = 0;
        if (read(fd, &c, 1) != -1 || errno != EINTR) {
            printf("read was not interrupted: errno %d\n", errno);
        }
        timer_delete(t);
    }
}

/* Another descriptor beside the quiet one becomes ready while the call spins or sleeps: late by how much (us)? */
static void others(int fd) {
    int e = eventfd(0, EFD_NONBLOCK);
    struct epoll_event in = {.events = EPOLLIN, .data.fd = e}, out;
    epoll_ctl(set_of(fd), EPOLL_CTL_ADD, e, &in);
    if (fork() == 0) {
        for (int i = 0; i < 2 * tries; ++i) {
            unsigned long long v = (unsigned long long)now_ns();
            if (write(e, &v, 8) != 8) {
                _exit(1);
            }
            usleep(i % 40 * 10);
        }
        _exit(0);
    }
    long long late[tries];
    for (int how = 0; how < 2; ++how) {
        for (int i = 0; i < tries;) {
            struct pollfd p[2] = {{fd, POLLIN, 0}, {e, POLLIN, 0}};
            unsigned long long v;
            int r = how == 0 ? epoll_wait(set_of(fd), &out, 1, 300) : poll(p, 2, 300);
            if (r == 0) {
                break;  /* two writes were read as one */
            }
            if (r != 1 || read(e, &v, 8) != 8) {
                printf("others: %d, errno %d\n", r, errno);
                return;
            }
            late[i++] = now_ns() - (long long)v;
            if (i == tries) {
                qsort(late, tries, sizeof *late, by_size);
                if (late[tries / 2] > 1000000) {
                    printf("others: late by %lld ns\n", late[tries / 2]);
                }
            }
        }
    }
    wait(NULL);
}

int main(int argc, char** argv) {
    if (argc >= 5 && strcmp(argv[1], "quiet") != 0) {
        int first = strcmp(argv[1], "ping") == 0;
        int fd = first ? reach(argv[2]) : take_one(argv[2]);
        return ping_pong(first, fd, argv[3], atoi(argv[4]), argc > 5 ? (size_t)atoi(argv[5]) : 1);
    }
    if (argc == 3 && strcmp(argv[1], "hold") == 0) {
        char c;
        return read(reach(argv[2]), &c, 1) == 0 ? 0 : 1;
    }
    if (argc != 4) {
        return 2;
    }
    int fd = take_one(argv[2]);
    set_of(fd);
    static const struct {
        const char* name;
        void (*run)(int);
    } tests[] = {{"timeouts", timeouts}, {"masks", masks}, {"interrupts", interrupts}, {"others", others}};
    for (int i = 0; i < 4; ++i) {
        if (strcmp(argv[3], tests[i].name) == 0) {
            tests[i].run(fd);
            puts("done");
            return 0;
        }
    }
    return 2;
}
