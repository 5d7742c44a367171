/* A call on a connection that a signal handler jumps out of, or a thread that is cancelled in it.
 *   interrupted PORT jump|cancel|cancel-async send|recv ROUNDS
 * Says "fine" when the connection works as before, or what is wrong. The peer echoes nothing: it drains, or it writes. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static sigjmp_buf back;
static int fd, sends;
static char bytes[1 << 20];

static ssize_t move(void) {
    return sends ? send(fd, bytes, sizeof bytes, MSG_NOSIGNAL) : recv(fd, bytes, sizeof bytes, 0);
}

static void jump(int signal) {
    (void)signal;
    siglongjmp(back, 1);
}

static int jumps(int rounds) {
    static volatile int jumped, failed;
    signal(SIGALRM, jump);
    while (jumped < rounds && !failed) {
        const struct itimerval soon = {{0, 0}, {0, 150 + (jumped * 37) % 900}};
        if (sigsetjmp(back, 1) == 0) {
            setitimer(ITIMER_REAL, &soon, NULL);
            while (move() > 0) {
            }
            failed = errno;
        } else {
            ++jumped;
        }
    }
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 0}}, NULL);
    return failed;
}

static void* moves(void* asynchronous) {
    if (asynchronous != NULL) {
        pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    }
    for (;;) {
        move();
    }
    return NULL;
}

static int cancels(int rounds, int asynchronous) {
    for (int i = 0; i < rounds; ++i) {
        pthread_t t;
        void* result = NULL;
        pthread_create(&t, NULL, moves, asynchronous ? bytes : NULL);
        usleep((useconds_t)(200 + i * 53 % 2000));
        pthread_cancel(t);
        struct timespec limit;
        clock_gettime(CLOCK_REALTIME, &limit);
        limit.tv_sec += 5;
        const int e = pthread_timedjoin_np(t, &result, &limit);
        if (e != 0 || result != PTHREAD_CANCELED) {
            return e != 0 ? e : ECANCELED;
        }
    }
    return 0;
}

int main(int argc, char** argv) {
    if (argc != 5) {
        return 2;
    }
    const struct sockaddr_in to = {.sin_family = AF_INET,
                                   .sin_port = htons((unsigned short)atoi(argv[1])),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    fd = socket(AF_INET, SOCK_STREAM, 0);
    sends = strcmp(argv[3], "send") == 0;
    if (connect(fd, (const struct sockaddr*)&to, sizeof to) != 0) {
        return 3;
    }
    const int rounds = atoi(argv[4]);
    const int e = strcmp(argv[2], "jump") == 0 ? jumps(rounds) : cancels(rounds, strcmp(argv[2], "cancel") != 0);
    if (e == 0 && move() > 0) {
        puts("fine");
    } else {
        printf("%s\n", e != 0 ? strerror(e) : "the connection does not work any more");
    }
    return 0;
}
