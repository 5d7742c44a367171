// Ways to use a socket inside libc or past it that the library sees coming. POSIX aio reads and writes in threads of
// libc's own: the connection turns plain before. A plug-in that is opened with RTLD_DEEPBIND, or with dlmopen() in a
// namespace of its own, calls libc past all hooks: so the program's connections are the kernel's from then on.
#include <aio.h>
#include <dlfcn.h>

#include "preload/hook.hh"
#include "preload/inherit.hh"
#include "preload/runtime.hh"

using namespace vmsgr::preload;
using vmsgr::proto::plain_cause;

namespace {

void serve_aio(int fd) noexcept {
    if (known(fd)) {
        serve_inside_libc(fd, plain_cause::aio);
    }
}

int list_of_blocks(const char* name, int mode, void* const* list, int count, sigevent* event) {
    auto* const next = reinterpret_cast<int (*)(int, void* const*, int, sigevent*)>(next_function(name));
    if (next == nullptr) {
        errno = ENOSYS;
        return -1;
    }
    return next(mode, list, count, event);
}

}  // namespace

// aiocb and aiocb64 are the same on this machine.
// NOLINTBEGIN(bugprone-macro-parentheses): names, not expressions
#define VMSGR_AIO_HOOK(name, block)                                                        \
    VMSGR_HOOK int name(block* b) {                                                        \
        serve_aio(b->aio_fildes);                                                          \
        static auto* const next = reinterpret_cast<int (*)(block*)>(next_function(#name)); \
        if (next == nullptr) {                                                             \
            errno = ENOSYS;                                                                \
            return -1;                                                                     \
        }                                                                                  \
        return next(b);                                                                    \
    }
VMSGR_AIO_HOOK(aio_read, aiocb)
VMSGR_AIO_HOOK(aio_read64, aiocb64)
VMSGR_AIO_HOOK(aio_write, aiocb)
VMSGR_AIO_HOOK(aio_write64, aiocb64)
#undef VMSGR_AIO_HOOK

#define VMSGR_LIO_HOOK(name, block)                                                             \
    VMSGR_HOOK int name(int mode, block* const list[], int count, sigevent* event) {            \
        for (int i = 0; i < count; ++i) {                                                       \
            if (list[i] != nullptr && list[i]->aio_lio_opcode != LIO_NOP) {                     \
                serve_aio(list[i]->aio_fildes);                                                 \
            }                                                                                   \
        }                                                                                       \
        return list_of_blocks(#name, mode, reinterpret_cast<void* const*>(list), count, event); \
    }
VMSGR_LIO_HOOK(lio_listio, aiocb)
VMSGR_LIO_HOOK(lio_listio64, aiocb64)
#undef VMSGR_LIO_HOOK
// NOLINTEND(bugprone-macro-parentheses)

// dlopen() looks for libraries where its caller would, whom it knows by its return address: so what goes on to libc is
// a jump. These give the function to jump to.
extern "C" {
__attribute__((visibility("hidden"), used)) void* vmsgr_before_dlopen(int mode) {
    if ((mode & RTLD_DEEPBIND) != 0) {
        leave_to_kernel(plain_cause::deepbind);
    }
    return next_function("dlopen");
}
__attribute__((visibility("hidden"), used)) void* vmsgr_before_dlmopen(long where) {
    if (where != LM_ID_BASE) {
        leave_to_kernel(plain_cause::other_namespace);
    }
    return next_function("dlmopen");
}

__attribute__((visibility("default"), naked)) void* dlopen(const char*, int) {
    __asm__("pushq %rdi\n\t"
            "pushq %rsi\n\t"
            "subq $8, %rsp\n\t"
            "movl %esi, %edi\n\t"
            "call vmsgr_before_dlopen\n\t"
            "addq $8, %rsp\n\t"
            "popq %rsi\n\t"
            "popq %rdi\n\t"
            "jmp *%rax\n\t");
}
__attribute__((visibility("default"), naked)) void* dlmopen(long, const char*, int) {
    __asm__("pushq %rdi\n\t"
            "pushq %rsi\n\t"
            "pushq %rdx\n\t"
            "call vmsgr_before_dlmopen\n\t"
            "popq %rdx\n\t"
            "popq %rsi\n\t"
            "popq %rdi\n\t"
            "jmp *%rax\n\t");
}
}
