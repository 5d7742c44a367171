#include "daemon/privileges.hh"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <initializer_list>
#include <memory>

namespace vmsgr::daemon {

base::result<account> find_account(const std::string& user) {
    uid_t uid = 0;
    const auto [end, ec] = std::from_chars(user.data(), user.data() + user.size(), uid);
    const bool number = ec == std::errc{} && end == user.data() + user.size();
    errno = 0;
    const passwd* p = number ? ::getpwuid(uid) : ::getpwnam(user.c_str());
    if (p == nullptr) {
        return base::fail(ENOENT, "user: there is no user " + user + " on this machine; make it, or change `user`");
    }
    return account{p->pw_name, p->pw_uid, p->pw_gid};
}

base::result<void> become(const account& a) {
    if (::geteuid() == a.uid && ::getuid() == a.uid) {
        return {};
    }
    if (::initgroups(a.name.c_str(), a.gid) != 0 || ::setresgid(a.gid, a.gid, a.gid) != 0 ||
        ::setresuid(a.uid, a.uid, a.uid) != 0) {
        const auto why = base::os_error("cannot become user " + a.name);
        return base::fail(why.errnum, why.text + "; start vmsgrd as root or as that user, or leave out `user`");
    }
    if (a.uid != 0 && ::setresuid(0, 0, 0) == 0) {
        return base::fail(EPERM, "the kernel lets user " + a.name + " become root again; choose another `user`");
    }
    return {};
}

namespace {

uint64_t kept_by(uid_t uid) noexcept {
    constexpr uint64_t of_root = uint64_t(1) << CAP_DAC_READ_SEARCH | uint64_t(1) << CAP_CHOWN |
                                 uint64_t(1) << CAP_SYS_RESOURCE | uint64_t(1) << CAP_SYS_NICE;
    return uid == 0 ? of_root : 0;
}

}  // namespace

void bound_capabilities(uid_t uid) noexcept {
    for (unsigned cap = 0; cap <= CAP_LAST_CAP; ++cap) {
        if ((kept_by(uid) >> cap & 1) == 0) {
            ::prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);  // of a process that may not, or a kernel that does not know it
        }
    }
}

base::result<void> drop_capabilities() {
    const uint64_t kept = kept_by(::geteuid());
    ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    __user_cap_header_struct head{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct have[2]{};
    if (::syscall(SYS_capget, &head, have) != 0) {
        return std::unexpected(base::os_error("capget"));
    }
    bool more = false;
    for (unsigned i = 0; i < 2; ++i) {
        const uint32_t mask = uint32_t(kept >> 32 * i);
        more = more || (have[i].permitted & ~mask) != 0 || have[i].inheritable != 0;
        have[i].permitted &= mask;
        have[i].effective = have[i].permitted;
        have[i].inheritable = 0;
    }
    // A service manager that has given none may refuse the call itself (packaging/vmsgrd.service.in).
    if (more && ::syscall(SYS_capset, &head, have) != 0) {
        return std::unexpected(base::os_error("cannot give up capabilities"));
    }
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return std::unexpected(base::os_error("PR_SET_NO_NEW_PRIVS"));
    }
    return {};
}

namespace {

// What vmsgrd, Seastar, OpenSSL and libc call after the start.
constexpr const char* allowed[] = {
    // memory
    "mmap",
    "munmap",
    "mprotect",
    "mremap",
    "madvise",
    "brk",
    "memfd_create",
    "mbind",
    "set_mempolicy",
    "get_mempolicy",
    "mlock",
    "mlockall",
    "munlock",
    "membarrier",
    "mincore",
    "msync",
    // threads and time
    "clone",
    "clone3",
    "futex",
    "set_robust_list",
    "get_robust_list",
    "rseq",
    "exit",
    "exit_group",
    "sched_yield",
    "sched_getaffinity",
    "sched_setaffinity",
    "sched_getparam",
    "sched_getscheduler",
    "sched_setscheduler",
    "getcpu",
    "gettid",
    "getpid",
    "getppid",
    "tgkill",
    "kill",
    "wait4",
    "setsid",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigpending",
    "rt_sigtimedwait",
    "sigaltstack",
    "signalfd4",
    "pidfd_open",
    "pidfd_send_signal",
    "timer_create",
    "timer_settime",
    "timer_delete",
    "timer_gettime",
    "timerfd_create",
    "timerfd_settime",
    "clock_gettime",
    "clock_getres",
    "clock_nanosleep",
    "nanosleep",
    "gettimeofday",
    "time",
    "restart_syscall",
    "getrandom",
    "prlimit64",
    "getrusage",
    "sysinfo",
    "uname",
    "set_tid_address",
    "arch_prctl",
    "setitimer",
    "getitimer",
    "perf_event_open",
    // waiting
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "eventfd2",
    "io_setup",
    "io_submit",
    "io_getevents",
    "io_pgetevents",
    "io_cancel",
    "io_destroy",
    // descriptors
    "read",
    "readv",
    "pread64",
    "preadv",
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    "fcntl",
    "ioctl",
    "pipe2",
    "lseek",
    "fstat",
    "newfstatat",
    "stat",
    "lstat",
    "statx",
    "fstatfs",
    "statfs",
    "ftruncate",
    "fallocate",
    "fdatasync",
    "fsync",
    "flock",
    "kcmp",
    // files: certificates, the node's number, the configuration, users and groups, doors
    "open",
    "openat",
    "access",
    "faccessat",
    "faccessat2",
    "readlink",
    "readlinkat",
    "getdents64",
    "getcwd",
    "unlink",
    "unlinkat",
    "rmdir",
    "mkdir",
    "rename",
    "renameat2",
    "chmod",
    "fchmod",
    "fchmodat",
    "chown",
    "fchown",
    "fchownat",
    "umask",
    "inotify_init1",
    "inotify_add_watch",
    "inotify_rm_watch",
    // sockets
    "socketpair",
    "bind",
    "listen",
    "accept4",
    "connect",
    "shutdown",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "recvfrom",
    "recvmsg",
    "recvmmsg",
    "getsockname",
    "getpeername",
    "setsockopt",
    "getsockopt",
    // who one is
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "getgroups",
    "getresuid",
    "getresgid",
    "capget",
    "prctl",
};

constexpr int families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};  // the last: to ask for addresses and routes

using filter_ptr = std::unique_ptr<void, decltype(&seccomp_release)>;

}  // namespace

base::result<void> restrict_system_calls() {
    filter_ptr filter(seccomp_init(SCMP_ACT_ERRNO(EPERM)), seccomp_release);
    if (!filter) {
        return base::fail(ENOMEM, "seccomp: no filter can be made");
    }
    seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);  // a tree: the calls of the fast path cost little
    seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_SSB, 1);       // nor do they cost a processor's speculation
    for (const char* name : allowed) {
        const int call = seccomp_syscall_resolve_name(name);
        if (call == __NR_SCMP_ERROR) {
            continue;  // an older libseccomp than the kernel
        }
        if (int err = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 0); err != 0) {
            return base::fail(-err, std::string("seccomp: a rule for ") + name);
        }
    }
    for (int family : families) {
        const scmp_arg_cmp is_family{0, SCMP_CMP_EQ, scmp_datum_t(family), 0};
        if (int err = seccomp_rule_add_array(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, &is_family); err != 0) {
            return base::fail(-err, "seccomp: a rule for sockets");
        }
    }
    if (int err = seccomp_load(filter.get()); err != 0) {
        return base::fail(-err, "seccomp: this kernel does not take the filter; set `seccomp: no` to do without");
    }
    return {};
}

}  // namespace vmsgr::daemon
