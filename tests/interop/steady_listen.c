/* Preloaded into ceph_test_async_networkstack's ComplexTest, whose two workers race: worker 1 looks whether
 * worker 0 listens, sleeps 50 us and connects. It works only when the look comes before the listen and the
 * connect after it; else the test crashes, on plain sockets too. This makes the order certain. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <unistd.h>

static void sleep_us(long us) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, 0);
}

int listen(int fd, int backlog) {
    int (*next)(int, int) = (int (*)(int, int))dlsym(RTLD_NEXT, "listen");
    sleep_us(100000);
    return next(fd, backlog);
}

int usleep(useconds_t us) {
    sleep_us(us == 50 ? 300000 : us);
    return 0;
}
