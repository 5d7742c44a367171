// The lock of one direction of a stream, which relatives of this process share. It is robust: a holder that was
// killed left its private index true and, at worst, unpublished; who gets the lock after it makes that good. One
// whose thread has jumped out of the call is made good by the jump (base/frame_hold.hh).
//
// Where this end is plain the ring is not its own any more: the daemon fills and empties it, a program neither. Then
// nothing is published, and no token sent, which would be data.
#pragma once

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "base/frame_hold.hh"
#include "base/sys.hh"
#include "client/streams/stream.hh"

namespace vmsgr::client {

class side_lock final : public base::frame_hold {
public:
    enum class side : uint8_t { sends, receives };

private:
    stream& _stream;
    shm::end& _end;
    const side _side;
    bool _held = false;

    pthread_mutex_t& mutex() const noexcept {
        auto& page = _stream.page();
        return _side == side::sends ? page.send_lock : page.recv_lock;
    }

    // A holder was killed, or its thread has jumped away.
    void make_good() noexcept {
        const uint32_t own = _stream.flags().load(std::memory_order_acquire);
        if (_stream.is_plain()) {
            return;
        }
        if ((own & shm::end_reads_plain) != 0) {
            _stream.break_off(_end.doorbell.fd());  // it was asking, and how far it came nobody knows
        } else if (_side == side::receives) {
            _end.in.recover();
        } else if (!_stream.turns_plain()) {
            _end.out.recover(_end.doorbell);
        } else if ((own & shm::end_plain) == 0) {
            _end.out.publish_anew();  // the other end has asked: it is awake, and takes none but counted tokens
        }
    }

    // Whether it was held at all, libc's mutex says: the handler may have come in the middle of its lock or unlock.
    // What was interrupted is made good as after a holder's death, as a token may be owed.
    static void jump_out(frame_hold& h) noexcept {
        auto& l = static_cast<side_lock&>(h);
        auto& mutex = l.mutex();
        auto& m = mutex.__data;
        const auto self = uint32_t(sys::call(SYS_gettid));
        if ((uint32_t(__atomic_load_n(&m.__lock, __ATOMIC_ACQUIRE)) & FUTEX_TID_MASK) != self) {
            return;
        }
        l.make_good();
        if (l._side == side::receives && !l._stream.turns_plain()) {
            l._end.emptied();
        }
        if (m.__list.__next != nullptr) {
            m.__owner = int(self);
            pthread_mutex_unlock(&mutex);
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
    // s, e: the stream and the view of the call, which live as long as this.
    side_lock(stream& s, shm::end& e, side which) noexcept : frame_hold(&jump_out), _stream(s), _end(e), _side(which) {}
    ~side_lock() { release(); }

    // False: this very thread holds it, below the signal handler that calls.
    bool take() noexcept {
        if (!_held) {
            enlist();
            const int r = pthread_mutex_lock(&mutex());
            _held = r == 0 || r == EOWNERDEAD;
            if (r == EOWNERDEAD) {
                pthread_mutex_consistent(&mutex());
                make_good();
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
            pthread_mutex_unlock(&mutex());
            delist();
        }
    }
};

}  // namespace vmsgr::client
