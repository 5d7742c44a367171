// stdio reads and writes inside libc, where no hook is: a FILE on one of our numbers gets functions of ours.
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include "preload/hook.hh"

using namespace vmsgr::preload;

extern "C" {
ssize_t read(int, void*, size_t);
ssize_t write(int, const void*, size_t);
int close(int);
}

namespace {

// libc gives its own cookie streams -2.
constexpr int marked_number = -1000;

int number(void* cookie) noexcept { return int(intptr_t(cookie)); }

ssize_t cookie_read(void* cookie, char* p, size_t n) { return ::read(number(cookie), p, n); }

// fopencookie wants 0 for an error, never -1.
ssize_t cookie_write(void* cookie, const char* p, size_t n) {
    ssize_t r = ::write(number(cookie), p, n);
    return r < 0 ? 0 : r;
}
int cookie_close(void* cookie) { return ::close(number(cookie)); }

bool ours(int fd) noexcept {
    if (!known(fd)) {
        return false;
    }
    use o(fd);
    return o && (o->what == kind::stream || o->what == kind::socket);
}

int print(int fd, const char* format, va_list ap) {
    char* text = nullptr;
    int n = vasprintf(&text, format, ap);
    if (n > 0) {
        ssize_t r = ::write(fd, text, size_t(n));
        n = r < 0 ? -1 : int(r);
    }
    free(text);
    return n;
}

}  // namespace

VMSGR_HOOK FILE* fdopen(int fd, const char* mode) {
    if (!ours(fd)) {
        return real.fdopen(fd, mode);
    }
    FILE* f = fopencookie(reinterpret_cast<void*>(intptr_t(fd)), mode,
                          {cookie_read, cookie_write, nullptr, cookie_close});
    if (f != nullptr) {
        f->_fileno = marked_number - fd;  // for fileno() below; libc itself does not use it on such a FILE
    }
    return f;
}

VMSGR_HOOK int fileno(FILE* f) {
    if (f->_fileno <= marked_number && table != nullptr) {
        return marked_number - f->_fileno;
    }
    return real.fileno(f);
}
VMSGR_HOOK int fileno_unlocked(FILE* f) { return fileno(f); }

VMSGR_HOOK int vdprintf(int fd, const char* format, va_list ap) {
    if (ours(fd)) {
        return print(fd, format, ap);
    }
    return real.vdprintf(fd, format, ap);
}
VMSGR_HOOK int dprintf(int fd, const char* format, ...) {
    va_list ap;
    va_start(ap, format);
    int n = vdprintf(fd, format, ap);
    va_end(ap);
    return n;
}
VMSGR_HOOK int __vdprintf_chk(int fd, int, const char* format, va_list ap) { return vdprintf(fd, format, ap); }
VMSGR_HOOK int __dprintf_chk(int fd, int, const char* format, ...) {
    va_list ap;
    va_start(ap, format);
    int n = vdprintf(fd, format, ap);
    va_end(ap);
    return n;
}
