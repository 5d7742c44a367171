// The lock of one direction of a stream, which relatives of this process share. It is robust: a holder that was
// killed left its private index true and, at worst, unpublished; who gets the lock after it makes that good. One
// whose thread has jumped out of the call is made good by the jump (base/frame_hold.hh).
#pragma once

#include <errno.h>
#include <pthread.h>

#include "base/frame_hold.hh"
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

    // The other end must not miss what was published, nor this one what comes.
    static void jump_out(frame_hold& h) noexcept {
        auto& l = static_cast<side_lock&>(h);
        const int r = pthread_mutex_lock(&l._m);
        if (r == EDEADLK && l._end != nullptr) {  // it was held indeed
            if (l._side == side::sends) {
                l._end->out.publish(0);
                l._end->sent();
            } else {
                l._end->emptied();
            }
        }
        if (r == EOWNERDEAD) {
            pthread_mutex_consistent(&l._m);
        }
        if (r == 0 || r == EDEADLK || r == EOWNERDEAD) {
            pthread_mutex_unlock(&l._m);
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
