/* Preloaded into ceph_test_async_networkstack's ComplexTest, whose two workers race. Worker 0 listens, sets a flag and
 * adds its listener to its event loop. Worker 1 connects in each turn of "while the flag is not set, usleep(50)". No turn,
 * and the test crashes; two, and both workers wait for ever, on plain sockets too. This makes it one: worker 0 listens
 * after worker 1 has looked, and worker 1 connects after the flag is set. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

static atomic_int listener = -1;
static atomic_bool looked, shown;

static void sleep_us(long us) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, 0);
}

static void wait_for(atomic_bool* what) {
    while (!*what) {
        sleep_us(1000);
    }
}

int listen(int fd, int backlog) {
    int (*next)(int, int) = (int (*)(int, int))dlsym(RTLD_NEXT, "listen");
    wait_for(&looked);
    listener = fd;
    return next(fd, backlog);
}

int epoll_ctl(int set, int op, int fd, struct epoll_event* event) {
    int (*next)(int, int, int, struct epoll_event*) = (int (*)(int, int, int, struct epoll_event*))dlsym(RTLD_NEXT,
                                                                                                         "epoll_ctl");
    if (fd == listener) {
        shown = 1;
    }
    return next(set, op, fd, event);
}

int usleep(useconds_t us) {
    if (us == 50) {
        looked = 1;
        wait_for(&shown);
    }
    sleep_us(us);
    return 0;
}
