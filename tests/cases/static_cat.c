/* From one descriptor to another until the end of file, as a program without any library: it is linked statically.
 *   static_cat IN OUT [MS]     MS: sleep so long first
 * Exit: 0 at the end of file, 3 when a read failed, 4 when a write did; the error's name is on stderr. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char** argv) {
    static char bytes[70000];
    const int in = argc > 1 ? atoi(argv[1]) : 0, out = argc > 2 ? atoi(argv[2]) : 1;
    if (argc > 3) {
        usleep(1000u * (unsigned)atoi(argv[3]));
    }
    for (;;) {
        const ssize_t n = read(in, bytes, sizeof bytes);
        if (n < 0) {
            fprintf(stderr, "read: %s\n", strerrorname_np(errno));
            return 3;
        }
        if (n == 0) {
            return 0;
        }
        for (ssize_t at = 0; at < n;) {
            const ssize_t done = write(out, bytes + at, (size_t)(n - at));
            if (done < 0) {
                fprintf(stderr, "write: %s\n", strerrorname_np(errno));
                return 4;
            }
            at += done;
        }
    }
}
