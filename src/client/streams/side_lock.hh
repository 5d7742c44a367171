// The lock of one direction of a stream, which relatives of this process share. It is robust: a holder that was killed
// left its private index true and, at worst, unpublished; who gets the lock after it makes that good.
#pragma once

#include <errno.h>
#include <pthread.h>

namespace vmsgr::client {

class side_lock {
    pthread_mutex_t& _m;
    bool _held = false;

public:
    explicit side_lock(pthread_mutex_t& m) noexcept : _m(m) {}
    side_lock(const side_lock&) = delete;
    side_lock& operator=(const side_lock&) = delete;
    ~side_lock() { release(); }

    // False: this very thread holds it, below the signal handler that calls. recover: after a holder's death.
    template <typename Recover>
    bool take(Recover&& recover) noexcept {
        if (!_held) {
            const int r = pthread_mutex_lock(&_m);
            _held = r == 0 || r == EOWNERDEAD;
            if (r == EOWNERDEAD) {
                pthread_mutex_consistent(&_m);
                recover();
            }
        }
        return _held;
    }
    void release() noexcept {
        if (_held) {
            _held = false;
            pthread_mutex_unlock(&_m);
        }
    }
};

}  // namespace vmsgr::client
