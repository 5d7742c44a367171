#include "preload/vfork_child.hh"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <atomic>

#include "base/sockets.hh"
#include "base/sys.hh"
#include "preload/inherit.hh"
#include "preload/objects.hh"
#include "preload/runtime.hh"

namespace vmsgr::preload {

namespace {

constexpr uid_t nobody_at_all = uid_t(-1);
std::atomic<uid_t> left_for{nobody_at_all};

bool is_carried(const object& o) noexcept {
    return o.what == kind::stream || (o.what == kind::listener && o.listener.by_daemon.load());
}

// False: there is nothing of ours that a child could pass on.
bool note_identities() noexcept {
    bool any = false;
    for (int fd = 0; fd <= highest_number(); ++fd) {
        use o(fd);
        if (!o || !is_carried(*o.get())) {
            continue;
        }
        any = true;
        if (o->cookie.load(std::memory_order_relaxed) == 0) {
            o->cookie.store(base::socket_cookie(fd), std::memory_order_relaxed);
        }
    }
    return any;
}

}  // namespace

void prepare_vfork() noexcept {
    if (!active.load(std::memory_order_relaxed) || in_vfork_child()) {
        return;
    }
    const int saved = errno;
    if (note_identities()) {
        const bool left = runtime().session.ensure_as_self();
        if (left) {
            leave_for_heirs();
        }
        left_for.store(left ? ::geteuid() : nobody_at_all, std::memory_order_relaxed);
    }
    errno = saved;
}

bool left_by_parent() noexcept { return left_for.load(std::memory_order_relaxed) == ::geteuid(); }

int number_in_parent(int fd) noexcept {
    const uint64_t cookie = base::socket_cookie(fd);
    if (cookie == 0) {
        return -1;
    }
    table_lock l;
    for (int n = 0; n <= highest_number(); ++n) {
        const object* o = at_number(n);
        if (o != nullptr && is_carried(*o) && o->cookie.load(std::memory_order_relaxed) == cookie) {
            return n;
        }
    }
    return -1;
}

void replace_in_child(int fd, int by) noexcept {
    const uint64_t cookie = base::socket_cookie(fd);
    for (int n = 0; cookie != 0 && n < inherited_fds_max; ++n) {
        const int flags = base::socket_cookie(n) == cookie ? sys::fcntl(n, F_GETFD) : -1;
        if (flags >= 0) {
            sys::dup3(by, n, (flags & FD_CLOEXEC) != 0 ? O_CLOEXEC : 0);
        }
    }
}

}  // namespace vmsgr::preload
