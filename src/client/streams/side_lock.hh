// The lock of one direction of a stream, which relatives of this process share. It is robust: a holder that was
// killed left its private index true and, at worst, unpublished; who gets the lock after it makes that good. One
// whose thread has jumped out of the call is made good by the jump (base/frame_hold.hh).
#pragma once

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "base/frame_hold.hh"
#include "base/sys.hh"
#include "shm/end.hh"

namespace vmsgr::client {

class side_lock final : public base::frame_hold {
public:
    enum class side : uint8_t { sends, receives };

private:
    pthread_mutex_t& _m;
    shm::end* const _end;
    const side _side;
    bool _held = false;

    // Whether it was held at all, libc's mutex says: the handler may have come in the middle of its lock or unlock.
    // What was interrupted is made good as after a holder's death, as a token may be owed.
    static void jump_out(frame_hold& h) noexcept {
        auto& l = static_cast<side_lock&>(h);
        auto& m = l._m.__data;
        const auto self = uint32_t(sys::call(SYS_gettid));
        if ((uint32_t(__atomic_load_n(&m.__lock, __ATOMIC_ACQUIRE)) & FUTEX_TID_MASK) != self) {
            return;
        }
        if (l._end != nullptr && l._side == side::sends) {
            l._end->out.recover(l._end->doorbell);
        } else if (l._end != nullptr) {
            l._end->in.recover();
            l._end->emptied();
        }
        if (m.__list.__next != nullptr) {
            m.__owner = int(self);
            pthread_mutex_unlock(&l._m);
            return;
        }
        // It is not on the thread's list of robust locks yet, or not any more: unlocked by hand.
        m.__owner = 0;
        m.__nusers = 0;
        if ((uint32_t(__atomic_exchange_n(&m.__lock, 0, __ATOMIC_ACQ_REL)) & FUTEX_WAITERS) != 0) {
            sys::call(SYS_futex, &m.__lock, FUTEX_WAKE, 1, nullptr, nullptr, 0);
        }
        robust_list_head* list = nullptr;
        size_t bytes = 0;
        if (sys::call(SYS_get_robust_list, 0, &list, &bytes) == 0 && list != nullptr) {
            list->list_op_pending = nullptr;
        }
    }

public:
    // e: the view of the call, which lives as long as this.
    explicit side_lock(pthread_mutex_t& m, shm::end* e = nullptr, side s = side::sends) noexcept
        : frame_hold(&jump_out), _m(m), _end(e), _side(s) {}
    ~side_lock() { release(); }

    // False: this very thread holds it, below the signal handler that calls. recover: after a holder's death.
    template <typename Recover>
    bool take(Recover&& recover) noexcept {
        if (!_held) {
            enlist();
            const int r = pthread_mutex_lock(&_m);
            _held = r == 0 || r == EOWNERDEAD;
            if (r == EOWNERDEAD) {
                pthread_mutex_consistent(&_m);
                recover();
            }
            if (!_held) {
                delist();
            }
        }
        return _held;
    }
    void release() noexcept {
        if (_held) {
            _held = false;
            pthread_mutex_unlock(&_m);
            delist();
        }
    }
};

}  // namespace vmsgr::client
