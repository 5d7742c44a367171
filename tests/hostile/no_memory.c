#define _GNU_SOURCE
#include "no_memory.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

// glibc's own, by the names that it exports beside the usual ones.
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

static __thread int lacking;
static __thread long seen, which;

void lack_memory(int on) {
    if (on) {
        const char* said = getenv("FAIL_ALLOCATION");
        which = said != NULL ? atol(said) : 0;
    }
    lacking = on;
}

long allocations(void) { return seen; }

long lacked(long result) {
    const int e = errno;
    lack_memory(0);
    errno = e;
    return result;
}

static int fails(void) {
    if (!lacking || (++seen != which && which != -1)) {
        return 0;
    }
    errno = ENOMEM;
    return 1;
}

void* malloc(size_t n) { return fails() ? NULL : __libc_malloc(n); }
void* calloc(size_t n, size_t each) { return fails() ? NULL : __libc_calloc(n, each); }
void* realloc(void* old, size_t n) { return fails() ? NULL : __libc_realloc(old, n); }
void* memalign(size_t at, size_t n) { return fails() ? NULL : __libc_memalign(at, n); }
void* aligned_alloc(size_t at, size_t n) { return memalign(at, n); }

int posix_memalign(void** out, size_t at, size_t n) {
    void* const got = memalign(at, n);
    if (got == NULL) {
        return ENOMEM;
    }
    *out = got;
    return 0;
}
