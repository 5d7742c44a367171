// fork needs no hook (pthread_atfork), unlike _Fork and clone. A child of vfork runs on its parent's memory, and with
// its thread's: while it does, calls that would change our table are the kernel's alone (in_vfork_child). exec and
// spawn pass conduits on.
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>

#include "preload/hook.hh"
#include "preload/inherit.hh"
#include "preload/runtime.hh"
#include "preload/vfork_child.hh"

using namespace vmsgr::preload;

extern "C" {
extern char** environ;

__attribute__((visibility("hidden"), used, tls_model("initial-exec"))) thread_local int vmsgr_vforks = 0;

// The frame of a function that calls vfork() is the child's too, so this one has none: its return address waits in a
// register that the kernel keeps, as in libc's own. The child runs first, with the thread's mark set; the parent
// takes the mark off.
__attribute__((visibility("default"), naked)) pid_t vfork(void) {
    __asm__("subq $8, %rsp\n\t"
            "call vmsgr_before_vfork\n\t"
            "addq $8, %rsp\n\t"
            "popq %rdi\n\t"
            "movq vmsgr_vforks@gottpoff(%rip), %rsi\n\t"
            "incl %fs:(%rsi)\n\t"
            "movl $58, %eax\n\t"
            "syscall\n\t"
            "pushq %rdi\n\t"
            "testl %eax, %eax\n\t"
            "jz 1f\n\t"
            "decl %fs:(%rsi)\n\t"
            "cmpl $-4095, %eax\n\t"
            "jae 2f\n"
            "1:\tret\n"
            "2:\tnegl %eax\n\t"
            "movl %eax, %edi\n\t"
            "jmp vmsgr_vfork_failed\n\t");
}
__attribute__((visibility("hidden"), used)) void vmsgr_before_vfork() { prepare_vfork(); }
__attribute__((visibility("hidden"), used)) pid_t vmsgr_vfork_failed(int errnum) {
    errno = errnum;
    return -1;
}
}

bool vmsgr::preload::in_vfork_child() noexcept { return vmsgr_vforks != 0; }

namespace {

constexpr size_t arguments_max = 4096;

// Collects the arguments of execl and its kin. False: too many.
bool collect(const char* first, va_list& ap, char** out) noexcept {
    out[0] = const_cast<char*>(first);
    for (size_t i = 1; out[i - 1] != nullptr; ++i) {
        if (i == arguments_max) {
            errno = E2BIG;
            return false;
        }
        out[i] = va_arg(ap, char*);
    }
    return true;
}

}  // namespace

std::atomic<bool> vmsgr::preload::async_cancellation{false};

VMSGR_HOOK int pthread_setcanceltype(int type, int* before) {
    if (real.pthread_setcanceltype == nullptr) {
        find_real_calls();
    }
    if (type == PTHREAD_CANCEL_ASYNCHRONOUS) {
        async_cancellation.store(true, std::memory_order_relaxed);
    }
    // NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): libc has it
    return real.pthread_setcanceltype(type, before);
}

VMSGR_HOOK int execve(const char* path, char* const* argv, char* const* envp) {
    prepare_heir({.path = path, .argv = argv}, envp, starts::here);
    return real.execve(path, argv, envp);
}
VMSGR_HOOK int execv(const char* path, char* const* argv) { return execve(path, argv, environ); }
VMSGR_HOOK int execvpe(const char* file, char* const* argv, char* const* envp) {
    prepare_heir({.path = file, .argv = argv, .searched = true}, envp, starts::here);
    return real.execvpe(file, argv, envp);
}
VMSGR_HOOK int execvp(const char* file, char* const* argv) { return execvpe(file, argv, environ); }
VMSGR_HOOK int fexecve(int fd, char* const* argv, char* const* envp) {
    prepare_heir({.file = fd, .argv = argv}, envp, starts::here);
    return real.fexecve(fd, argv, envp);
}

VMSGR_HOOK int execl(const char* path, const char* arg, ...) {
    char* argv[arguments_max];
    va_list ap;
    va_start(ap, arg);
    bool fits = collect(arg, ap, argv);
    va_end(ap);
    return fits ? execve(path, argv, environ) : -1;
}
VMSGR_HOOK int execlp(const char* file, const char* arg, ...) {
    char* argv[arguments_max];
    va_list ap;
    va_start(ap, arg);
    bool fits = collect(arg, ap, argv);
    va_end(ap);
    return fits ? execvpe(file, argv, environ) : -1;
}
VMSGR_HOOK int execle(const char* path, const char* arg, ...) {
    char* argv[arguments_max];
    va_list ap;
    va_start(ap, arg);
    bool fits = collect(arg, ap, argv);
    char* const* envp = fits ? va_arg(ap, char* const*) : nullptr;
    va_end(ap);
    return fits ? execve(path, argv, envp) : -1;
}

VMSGR_HOOK int posix_spawn(pid_t* pid, const char* path, const posix_spawn_file_actions_t* actions,
                           const posix_spawnattr_t* attributes, char* const* argv, char* const* envp) {
    prepare_heir({.path = path, .argv = argv}, envp, starts::in_child);
    return real.posix_spawn(pid, path, actions, attributes, argv, envp);
}
VMSGR_HOOK int posix_spawnp(pid_t* pid, const char* file, const posix_spawn_file_actions_t* actions,
                            const posix_spawnattr_t* attributes, char* const* argv, char* const* envp) {
    prepare_heir({.path = file, .argv = argv, .searched = true}, envp, starts::in_child);
    return real.posix_spawnp(pid, file, actions, attributes, argv, envp);
}

VMSGR_HOOK pid_t _Fork(void) noexcept {
    if (real._Fork == nullptr) {
        find_real_calls();
    }
    return forked(real._Fork);
}

namespace {

// Where the child of a clone() begins; it has a copy of its parent's stack.
struct clone_start {
    int (*run)(void*);
    void* with;
};
int begin_clone(void* at) {
    const clone_start start = *static_cast<const clone_start*>(at);
    after_fork_child();
    return start.run(start.with);
}

}  // namespace

VMSGR_HOOK int clone(int (*run)(void*), void* stack, int flags, void* with, ...) noexcept {
    va_list ap;
    va_start(ap, with);
    void *parent_id = va_arg(ap, void*), *tls = va_arg(ap, void*), *child_id = va_arg(ap, void*);
    va_end(ap);
    if (real.clone == nullptr) {
        find_real_calls();
    }
    auto cloned = [&](int (*first)(void*), void* its) {
        return real.clone(first, stack, flags, its, parent_id, tls, child_id);
    };
    if ((flags & CLONE_VM) == 0 && run != nullptr && active.load(std::memory_order_relaxed)) {
        clone_start start{run, with};
        return forked([&] { return cloned(&begin_clone, &start); });
    }
    // With a stack of its own, and on this thread's memory as a child of vfork.
    const bool as_vfork = (flags & (CLONE_VM | CLONE_VFORK | CLONE_SETTLS)) == (CLONE_VM | CLONE_VFORK);
    if (!as_vfork) {
        return cloned(run, with);
    }
    prepare_vfork();
    ++vmsgr_vforks;
    const int r = cloned(run, with);
    --vmsgr_vforks;
    return r;
}

// A child gets the number whatever its FD_CLOEXEC says.
VMSGR_HOOK int posix_spawn_file_actions_adddup2(posix_spawn_file_actions_t* actions, int fd, int to) {
    mark_spawned(fd);
    return real.posix_spawn_file_actions_adddup2(actions, fd, to);
}

// libc starts the shell of these by itself, past the hooks.
namespace {

void prepare_shell() noexcept {
    char name[] = "sh";
    char* const argv[] = {name, nullptr};
    prepare_heir({.path = "/bin/sh", .argv = argv}, environ, starts::in_child);
}

}  // namespace

VMSGR_HOOK int system(const char* command) {
    if (command != nullptr) {
        prepare_shell();
    }
    return real.system(command);
}
VMSGR_HOOK FILE* popen(const char* command, const char* mode) {
    prepare_shell();
    return real.popen(command, mode);
}
