#include "preload/own_numbers.hh"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <utility>

#include "base/signal_lock.hh"
#include "base/sys.hh"
#include "preload/objects.hh"

namespace vmsgr::preload {

namespace {

constinit base::signal_lock limit_lock;
rlimit programs_own{};  // while it is lifted

// Beyond it the kernel's table of the process would grow too large for a few numbers.
constexpr rlim_t liftable_max = 1 << 16;
constexpr rlim_t lifted_by = 4096;
constexpr rlim_t far_from_limit = 256;

int set_limit(const rlimit* now, rlimit* before) noexcept {
    return int(sys::call(SYS_prlimit64, 0, RLIMIT_NOFILE, now, before));
}

// Under the limit's lock.
bool lift() noexcept {
    if (set_limit(nullptr, &programs_own) != 0 || programs_own.rlim_cur > liftable_max) {
        return false;
    }
    const rlim_t wanted = programs_own.rlim_cur + lifted_by;
    rlimit more{std::min(wanted, programs_own.rlim_max), programs_own.rlim_max};
    if (more.rlim_cur - programs_own.rlim_cur < far_from_limit) {
        more = {wanted, std::max(wanted, programs_own.rlim_max)};  // with privileges
    }
    return set_limit(&more, nullptr) == 0;
}

// A duplicate above its own number: -1 where there is no room.
int duplicate_above(int fd) noexcept {
    limit_lock.lock();
    const bool lifted = lift();
    const rlim_t limit = programs_own.rlim_cur;
    int beyond = -1;
    if (lifted) {
        beyond = sys::fcntl(fd, F_DUPFD_CLOEXEC, std::max(long(limit), long(fd) + 1));
        set_limit(&programs_own, nullptr);
    }
    limit_lock.unlock();
    if (beyond >= 0) {
        return beyond;
    }
    const long top = std::min<long>(long(limit), fds_max);
    // A few numbers below the limit, in steps: F_DUPFD takes the next free one.
    for (long from : {top - 64, top - 256, top / 2}) {
        const int moved = from > fd ? sys::fcntl(fd, F_DUPFD_CLOEXEC, from) : -1;
        if (moved >= 0) {
            return moved;
        }
    }
    return -1;
}

}  // namespace

int duplicate_internal(int fd) noexcept {
    const int above = duplicate_above(fd);
    return above >= 0 ? above : sys::fcntl(fd, F_DUPFD_CLOEXEC, fd + 1);
}

void make_internal(int* where) noexcept {
    if (const int moved = duplicate_above(*where); moved >= 0) {
        sys::close(*where);
        *where = moved;
    }
    mark_internal(where);
}

void mark_internal(int* where) noexcept {
    table_lock l;
    if (object* o = new_object(kind::internal)) {
        o->kept_at = where;
        set_number(*where, o);
    }
}

void close_internal(int fd) noexcept {
    object* last = nullptr;
    {
        table_lock l;
        last = clear_number(fd);
    }
    sys::close(fd);
    if (last != nullptr) {
        finish(last);
    }
}

void drop_internal(int* where) noexcept { close_internal(std::exchange(*where, -1)); }

void move_internal(int fd) noexcept {
    object* old = nullptr;
    {
        table_lock l;
        object* o = at_number(fd);
        const int moved = o != nullptr && o->what == kind::internal ? duplicate_internal(fd) : -1;
        if (moved < 0) {
            return;
        }
        if (o->kept_at != nullptr && *o->kept_at == fd) {
            *o->kept_at = moved;
        }
        if (object* fresh = new_object(kind::internal)) {
            fresh->kept_at = o->kept_at;
            set_number(moved, fresh);
        }
        old = clear_number(fd);
        sys::close(fd);
    }
    if (old != nullptr) {
        finish(old);
    }
}

bool lift_limit(int number) noexcept {
    rlimit now{};
    if (set_limit(nullptr, &now) != 0 || rlim_t(number) + far_from_limit < now.rlim_cur) {
        return false;
    }
    limit_lock.lock();
    if (!lift()) {
        limit_lock.unlock();
        return false;
    }
    return true;
}

void lower_limit() noexcept {
    const int saved = errno;
    set_limit(&programs_own, nullptr);
    limit_lock.unlock();
    errno = saved;
}

bool room_to_accept(int last_number) noexcept {
    rlimit limit{};
    if (set_limit(nullptr, &limit) == 0 && rlim_t(last_number) + far_from_limit < limit.rlim_cur / 2) {
        return true;
    }
    if (lift_limit(int(std::min<rlim_t>(limit.rlim_cur, fds_max)))) {
        lower_limit();
        return true;
    }
    int fds[3];
    int n = 0;
    fds[0] = sys::fcntl(0, F_DUPFD_CLOEXEC, 0);
    if (fds[0] < 0) {
        fds[0] = sys::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);  // 0 may be closed
    }
    while (n < 3 && fds[n] >= 0) {
        if (++n < 3) {
            fds[n] = sys::fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
        }
    }
    for (int i = 0; i < n; ++i) {
        sys::close(fds[i]);
    }
    return n == 3;
}

void lock_limit_for_fork() noexcept { limit_lock.lock(); }
void unlock_limit_after_fork() noexcept { limit_lock.unlock(); }

}  // namespace vmsgr::preload
