// Walks over the caller's iovec while bytes are copied between it and a ring.
#pragma once

#include <limits.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <optional>

#include "base/assert.hh"

namespace vmsgr::client {

class iov_cursor {
    const iovec* _iov;
    size_t _count;
    size_t _at = 0;

public:
    iov_cursor(const iovec* iov, size_t count) noexcept : _iov(iov), _count(count) {}

    // Calls copy(ring, user, n) for each stretch. The iovec has room for all of the piece.
    template <typename Copy>
    void each(iovec piece, Copy&& copy) noexcept {
        auto* p = static_cast<std::byte*>(piece.iov_base);
        size_t left = piece.iov_len;
        while (left != 0) {
            VMSGR_ASSERT(_count != 0);
            size_t n = std::min(left, _iov->iov_len - _at);
            if (n != 0) {
                copy(p, static_cast<std::byte*>(_iov->iov_base) + _at, n);
            }
            p += n;
            left -= n;
            _at += n;
            if (_at == _iov->iov_len) {
                ++_iov;
                --_count;
                _at = 0;
            }
        }
    }
};

// Nothing: more than a call may move.
inline std::optional<size_t> total_bytes(const iovec* iov, size_t count) noexcept {
    size_t n = 0;
    for (size_t i = 0; i < count; ++i) {
        if (iov[i].iov_len > size_t(SSIZE_MAX) - n) {
            return std::nullopt;
        }
        n += iov[i].iov_len;
    }
    return n;
}

}  // namespace vmsgr::client
