#include "preload/runtime.hh"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/background.hh"
#include "base/sys.hh"
#include "client/kept_fds.hh"
#include "client/memory.hh"
#include "client/streams/late_tokens.hh"
#include "shm/spin.hh"
#include "preload/inherit.hh"
#include "preload/listening.hh"
#include "preload/objects.hh"
#include "preload/own_numbers.hh"
#include "preload/real.hh"
#include "preload/spin_wait.hh"
#include "preload/swap.hh"
#include "preload/vfork_child.hh"
#include "proto/spin.hh"

namespace vmsgr::preload {

std::atomic<bool> active{false};

namespace {

constinit runtime_state state;
std::atomic<bool> watching{false};

constexpr int watch_first_ms = 100;
constexpr int watch_longest_ms = 1000;

void* watch(void*) {
    int pause_ms = watch_first_ms;
    while (listeners_wait()) {
        sys::poll(nullptr, 0, pause_ms);
        pause_ms = std::min(pause_ms * 2, watch_longest_ms);
        if (state.session.ensure()) {
            listen_again();
            pause_ms = watch_first_ms;
        }
    }
    watching.store(false);
    if (listeners_wait()) {
        watch_for_daemon();
    }
    return nullptr;
}

void take_spin_budget() noexcept {
    uint32_t us = proto::spin_us_default;
    const char* asked = ::getenv(proto::spin_variable);
    if (asked != nullptr) {
        auto parsed = proto::parse_spin_us(asked);
        if (!parsed) {
            log("$VMSGR_SPIN_US is '%s', not %s; the default of %u us is kept", asked, proto::spin_range, us);
            asked = nullptr;
        }
        us = parsed.value_or(us);
    }
    shm::set_spin_limit(us);
    if (asked != nullptr) {
        spin_as_asked();
    }
}

void take_part() noexcept {
    const char* routes = ::getenv("VMSGR_ROUTES");
    if (routes == nullptr || routes[0] == 0) {
        return;
    }
    state.log = ::getenv("VMSGR_LOG") != nullptr;
    state.program = program_invocation_short_name;
    if (!proto::parse_routes(routes, state.routes)) {
        log("$VMSGR_ROUTES is not understood (another version?); nothing is routed");
        return;
    }
    if (!state.routes.concerns(state.program)) {
        return;
    }
    const char* socket = ::getenv("VMSGR_SOCKET");
    state.session.configure(socket != nullptr && socket[0] != 0 ? socket : proto::default_socket, state.program,
                            proto::features_ours | proto::feature_go_back);
    client::set_fd_rules(
        {.keep = &make_internal,
         .drop = &drop_internal,
         .holds = &is_number_of,
         .replace = &replace_connection,
         .ring_late = &send_late_token,
         .show_late_bytes = &show_late_bytes,
         .show = &show_connection,
         .ask_back = [](int fd, uint64_t id) { return in_vfork_child() ? -EPERM : state.session.go_back(fd, id); },
         .become_socket = &become_socket,
         .lift_limit = &lift_limit,
         .lower_limit = &lower_limit});
    if (!make_table()) {
        return;
    }
    take_spin_budget();
    share_listeners_given();
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
    active.store(true);
    take_inheritance();
}

__attribute__((constructor)) void start() noexcept {
    find_real_calls();
    take_part();
}

}  // namespace

void before_fork() noexcept {
    client::pay_owed_tokens();
    // In the order in which calls take them.
    state.session.lock_for_fork();
    client::lock_memory_for_fork();
    lock_table_for_fork();
    lock_limit_for_fork();
}
void after_fork_parent() noexcept {
    unlock_limit_after_fork();
    unlock_table_after_fork(false);
    client::unlock_memory_after_fork();
    state.session.unlock_after_fork();
}
void after_fork_child() noexcept {
    unlock_limit_after_fork();
    unlock_table_after_fork(true);
    client::unlock_memory_after_fork();
    watching.store(false);
    client::forget_owed_tokens();
    state.session.unlock_after_fork();
    state.session.forget();
}

runtime_state& runtime() noexcept { return state; }

namespace {

// A write to a file beyond RLIMIT_FSIZE would end the program (SIGXFSZ); sshd's part before the login has a limit of 0.
bool log_may_grow() noexcept {
    rlimit limit{};
    struct stat st{};
    return (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY) ||
           (sys::call(SYS_fstat, STDERR_FILENO, &st) == 0 && !S_ISREG(st.st_mode));
}

}  // namespace

void log(const char* format, ...) noexcept {
    if (!state.log) {
        return;
    }
    int saved = errno;
    if (!log_may_grow()) {
        errno = saved;
        return;
    }
    char text[512];
    int n = snprintf(text, sizeof text, "vmsgr[%d]: ", ::getpid());
    va_list ap;
    va_start(ap, format);
    n += vsnprintf(text + n, sizeof text - size_t(n) - 1, format, ap);
    va_end(ap);
    n = std::min<int>(n, sizeof text - 2);
    text[n++] = '\n';
    sys::call(SYS_write, STDERR_FILENO, text, n);
    errno = saved;
}

void watch_for_daemon() noexcept {
    if (watching.exchange(true)) {
        return;
    }
    if (!base::start_background(&watch)) {
        watching.store(false);  // the next accept tries again
    }
}

}  // namespace vmsgr::preload
