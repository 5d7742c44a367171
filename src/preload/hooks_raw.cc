// libc's syscall(): programs call the kernel by it past all other hooks (libuv closes with SYS_close). What concerns
// descriptors goes to the hook of that call, and what forks (vsftpd) is a fork. And the calls after which a program's
// sockets have to be the kernel's.
#include <linux/sched.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>

#include "base/sys.hh"
#include "client/streams/late_tokens.hh"
#include "preload/hook.hh"
#include "preload/inherit.hh"
#include "preload/runtime.hh"

using namespace vmsgr;
using namespace vmsgr::preload;

extern "C" {
int accept4(int, sockaddr*, socklen_t*, int);
int close_range(unsigned, unsigned, int);
int dup3(int, int, int);
int execve(const char*, char* const*, char* const*);
int fcntl(int, int, ...);
int ioctl(int, unsigned long, ...);
int recvmmsg(int, mmsghdr*, unsigned, int, timespec*);
int sendmmsg(int, mmsghdr*, unsigned, int);
ssize_t splice(int, loff_t*, int, loff_t*, size_t, unsigned);
}

namespace {

// The hook of system call `number` for these words.
struct words {
    long w[6];
    template <typename T>
    T as(size_t i) const noexcept {
        if constexpr (std::is_pointer_v<T>) {
            return reinterpret_cast<T>(w[i]);  // NOLINT(performance-no-int-to-ptr): a word of a system call
        } else {
            return T(w[i]);
        }
    }
};

template <typename R, typename... A, size_t... I>
long call_hook(R (*hook)(A...), const words& w, std::index_sequence<I...>) {
    return long(hook(w.as<A>(I)...));
}
template <typename R, typename... A>
long call_hook(R (*hook)(A...), const words& w) {
    return call_hook(hook, w, std::index_sequence_for<A...>{});
}

// What a sandboxed thread does is allowed by system calls, and ours are not on its list.
void enter_sandbox() noexcept {
    leave_to_kernel(proto::plain_cause::seccomp);
    client::stop_ringer();
    table = nullptr;
    runtime().log = false;
}

// A child with memory of its own, which goes on where its parent is.
bool forks(long number, const words& w) noexcept {
    switch (number) {
    case SYS_fork: return true;
    case SYS_clone: return (w.w[0] & CLONE_VM) == 0 && w.w[1] == 0;
    case SYS_clone3: {
        const auto* how = w.as<const clone_args*>(0);
        return how != nullptr && w.w[1] >= CLONE_ARGS_SIZE_VER0 && (how->flags & CLONE_VM) == 0 && how->stack == 0;
    }
    default: return false;
    }
}

}  // namespace

VMSGR_HOOK long syscall(long number, ...) {
    words w{};
    va_list ap;
    va_start(ap, number);
    for (long& word : w.w) {
        word = va_arg(ap, long);
    }
    va_end(ap);
    if (table != nullptr) {
        switch (number) {
        case SYS_read: return call_hook(&::read, w);
        case SYS_write: return call_hook(&::write, w);
        case SYS_readv: return call_hook(&::readv, w);
        case SYS_writev: return call_hook(&::writev, w);
        case SYS_preadv2: return ::preadv2(w.as<int>(0), w.as<iovec*>(1), w.as<int>(2), w.as<off_t>(3), w.as<int>(5));
        case SYS_pwritev2: return ::pwritev2(w.as<int>(0), w.as<iovec*>(1), w.as<int>(2), w.as<off_t>(3), w.as<int>(5));
        case SYS_sendto: return call_hook(&::sendto, w);
        case SYS_recvfrom: return call_hook(&::recvfrom, w);
        case SYS_sendmsg: return call_hook(&::sendmsg, w);
        case SYS_recvmsg: return call_hook(&::recvmsg, w);
        case SYS_sendmmsg: return call_hook(&::sendmmsg, w);
        case SYS_recvmmsg: return call_hook(&::recvmmsg, w);
        case SYS_sendfile: return call_hook(&::sendfile, w);
        case SYS_splice: return call_hook(&::splice, w);
        case SYS_socket: return call_hook(&::socket, w);
        case SYS_connect: return call_hook(&::connect, w);
        case SYS_listen: return call_hook(&::listen, w);
        case SYS_accept: return call_hook(&::accept, w);
        case SYS_accept4: return call_hook(&::accept4, w);
        case SYS_shutdown: return call_hook(&::shutdown, w);
        case SYS_getsockopt: return call_hook(&::getsockopt, w);
        case SYS_setsockopt: return call_hook(&::setsockopt, w);
        case SYS_getsockname: return call_hook(&::getsockname, w);
        case SYS_getpeername: return call_hook(&::getpeername, w);
        case SYS_close: return call_hook(&::close, w);
        case SYS_close_range: return call_hook(&::close_range, w);
        case SYS_dup: return call_hook(&::dup, w);
        case SYS_dup2: return call_hook(&::dup2, w);
        case SYS_dup3: return call_hook(&::dup3, w);
        case SYS_fcntl: return ::fcntl(w.as<int>(0), w.as<int>(1), w.as<void*>(2));
        case SYS_ioctl: return ::ioctl(w.as<int>(0), w.as<unsigned long>(1), w.as<void*>(2));
        case SYS_epoll_ctl: return call_hook(&::epoll_ctl, w);
        case SYS_epoll_wait: return call_hook(&::epoll_wait, w);
        case SYS_epoll_pwait: return call_hook(&::epoll_pwait, w);
        case SYS_epoll_pwait2: return call_hook(&::epoll_pwait2, w);
        case SYS_execve: return call_hook(&::execve, w);
        case SYS_io_uring_setup: leave_to_kernel(proto::plain_cause::io_uring); break;
        case SYS_seccomp: enter_sandbox(); break;
        default: break;
        }
    }
    auto call = [&] { return sys::call(number, w.w[0], w.w[1], w.w[2], w.w[3], w.w[4], w.w[5]); };
    return table != nullptr && forks(number, w) ? forked(call) : call();
}

VMSGR_HOOK int prctl(int option, ...) {
    va_list ap;
    va_start(ap, option);
    const long a = va_arg(ap, long), b = va_arg(ap, long), c = va_arg(ap, long), d = va_arg(ap, long);
    va_end(ap);
    if (option == PR_SET_SECCOMP && table != nullptr) {
        enter_sandbox();
    }
    return int(sys::call(SYS_prctl, option, a, b, c, d));
}

// liburing calls the kernel by itself; these are its programs' ways in.
// NOLINTBEGIN(bugprone-macro-parentheses): names and parameter lists, not expressions
#define VMSGR_RING_HOOK(name, parameters, arguments)                                         \
    VMSGR_HOOK int name parameters {                                                         \
        leave_to_kernel(proto::plain_cause::io_uring);                                       \
        static auto* const next = reinterpret_cast<int(*) parameters>(next_function(#name)); \
        return next != nullptr ? next arguments : -ENOSYS;                                   \
    }
VMSGR_RING_HOOK(io_uring_queue_init, (unsigned n, void* ring, unsigned flags), (n, ring, flags))
VMSGR_RING_HOOK(io_uring_queue_init_params, (unsigned n, void* ring, void* p), (n, ring, p))
VMSGR_RING_HOOK(io_uring_queue_init_mem, (unsigned n, void* ring, void* p, void* at, size_t bytes),
                (n, ring, p, at, bytes))
VMSGR_RING_HOOK(io_uring_setup, (unsigned n, void* p), (n, p))
#undef VMSGR_RING_HOOK
// NOLINTEND(bugprone-macro-parentheses)
