/* A loop that answers several peers in a turn, and then does not come back to epoll_wait: it sleeps elsewhere, ends,
 * closes, becomes another program. The first byte of a message says what: 'a' nothing, the others see below.
 *   late_tokens CONNECTIONS   prints its port; the last connection is its second thread's. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int fds[64], n;
static sem_t allowed;

static void* second(void* arg) {
    char c;
    while (read(*(int*)arg, &c, 1) == 1)
        sem_post(&allowed);
    return arg;
}

static void answer_all(void) {
    for (int i = 0; i < n - 1; i++)
        if (write(fds[i], "answer", 6) != 6)
            exit(3);
}

static void act(char what, int fd) {
    (void)!fd;
    switch (what) {
    case 'a': answer_all(); break;
    case 'b': /* sleeps on a semaphore until the peer has had the answer */
        answer_all();
        sem_wait(&allowed);
        break;
    case 'd': { /* answers by a number that is closed at once */
        int twin = dup(fds[0]);
        if (write(twin, "answer", 6) != 6)
            exit(3);
        close(twin);
        for (int i = 1; i < n - 1; i++)
            if (write(fds[i], "answer", 6) != 6)
                exit(3);
        sem_wait(&allowed);
        break;
    }
    case 'f': { /* a child has all of them, and lives longer */
        answer_all();
        pid_t pid = fork();
        if (pid == 0) {
            alarm(3);
            sem_wait(&allowed);
            _exit(0);
        }
        _exit(0);
    }
    case 'x': answer_all(); _exit(0);
    case 'e': /* another program, which has the connections and does nothing with them */
        answer_all();
        for (int i = 0; i < n; i++)
            fcntl(fds[i], F_SETFD, 0);
        execl("/bin/sleep", "sleep", "2", (char*)0);
        _exit(4);
    }
}

int main(int argc, char** argv) {
    n = argc > 1 ? atoi(argv[1]) : 4;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int l = socket(AF_INET, SOCK_STREAM, 0), ep = epoll_create1(0);
    if (bind(l, (struct sockaddr*)&a, len) || listen(l, 64) || getsockname(l, (struct sockaddr*)&a, &len))
        return 1;
    printf("%d\n", ntohs(a.sin_port));
    fflush(stdout);
    sem_init(&allowed, 0, 0);
    for (int i = 0; i < n; i++) {
        fds[i] = accept(l, NULL, NULL);
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fds[i]};
        if (i < n - 1 && (fcntl(fds[i], F_SETFL, O_NONBLOCK) || epoll_ctl(ep, EPOLL_CTL_ADD, fds[i], &e)))
            return 2;
    }
    pthread_t t;
    pthread_create(&t, NULL, second, &fds[n - 1]);
    for (;;) {
        struct epoll_event e[64];
        int k = epoll_wait(ep, e, 64, -1);
        for (int i = 0; i < k; i++) {
            char b[64];
            long r;
            while ((r = read(e[i].data.fd, b, sizeof b)) > 0)
                for (long at = 0; at < r; at++)
                    act(b[at], e[i].data.fd);
            if (r == 0)
                return 0;
        }
    }
}
