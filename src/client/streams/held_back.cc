#include "client/streams/held_back.hh"

#include <sys/socket.h>

#include <atomic>

#include "base/clock.hh"
#include "client/kept_fds.hh"
#include "client/streams/late_tokens.hh"
#include "client/streams/side_lock.hh"
#include "client/streams/stream.hh"

namespace vmsgr::client {

namespace {

constexpr uint32_t listed_max = 256;

// A stream is listed until the thread finds that it holds nothing back. `to` is only compared with what has the number.
struct entry {
    std::atomic<bool> taken;
    std::atomic<int> fd;
    std::atomic<const stream*> to;
};
constinit entry listed[listed_max]{};
constinit std::atomic<uint32_t> listed_used{0};

bool go_through(int64_t min_age_ns) noexcept {
    bool any = false;
    const uint32_t n = listed_used.load(std::memory_order_seq_cst);
    for (uint32_t i = 0; i < n; ++i) {
        entry& e = listed[i];
        const stream* to = e.to.load(std::memory_order_seq_cst);
        any = any || to != nullptr;
        if (to != nullptr && !client::show_late_bytes(e.fd.load(std::memory_order_relaxed), to, min_age_ns) &&
            e.to.compare_exchange_strong(to, nullptr)) {
            e.taken.store(false, std::memory_order_release);
        }
    }
    return any;
}

}  // namespace

bool list_held_back(int fd, const stream& s) noexcept {
    for (uint32_t i = 0; i < listed_max; ++i) {
        entry& e = listed[i];
        if (!e.taken.load(std::memory_order_relaxed) && !e.taken.exchange(true, std::memory_order_acquire)) {
            e.fd.store(fd, std::memory_order_relaxed);
            e.to.store(&s, std::memory_order_seq_cst);
            for (uint32_t used = listed_used.load(); used <= i && !listed_used.compare_exchange_weak(used, i + 1);) {
            }
            if (wake_ringer_for_held_back()) {
                return true;
            }
            e.to.store(nullptr, std::memory_order_seq_cst);
            e.taken.store(false, std::memory_order_release);
            return false;
        }
    }
    return false;
}

bool show_late_bytes() noexcept { return go_through(held_back_ns); }

bool is_any_held_back() noexcept {
    const uint32_t n = listed_used.load(std::memory_order_seq_cst);
    for (uint32_t i = 0; i < n; ++i) {
        if (listed[i].to.load(std::memory_order_seq_cst) != nullptr) {
            return true;
        }
    }
    return false;
}

void show_all_held_back() noexcept { go_through(0); }

void forget_held_back() noexcept {
    for (entry& e : listed) {
        e.to.store(nullptr, std::memory_order_relaxed);
        e.taken.store(false, std::memory_order_relaxed);
    }
}

// What the call sends with: MSG_MORE where the end of it is held back.
int stream::may_hold_back(int flags) noexcept {
    if (__builtin_expect((flags & MSG_MORE) == 0 && _page->corked.load(std::memory_order_relaxed) == 0, 1)) {
        return flags;
    }
    return !is_local() || start_ringer_for_held_back() ? flags | MSG_MORE : flags & ~MSG_MORE;
}

// Under the send lock, n more bytes are written. True: that is all for now; full segments were shown.
bool stream::hold_back(int fd, int flags, shm::end& e, size_t n) noexcept {
    if ((flags & MSG_OOB) != 0 || _page->holders.load(std::memory_order_relaxed) != 1) {
        return false;
    }
    const size_t before = e.out.held_back(), all = before + n, left = all % segment_bytes;
    e.out.hold_back(n);
    if (left != all) {
        e.out.show_held_back(left, [&]() noexcept { e.sent(); });
    }
    if (before == 0 || left != all) {
        _held_since_ns = base::now_ns();
    }
    if (left != 0 && !_is_listed.load(std::memory_order_relaxed)) {
        _is_listed.store(true, std::memory_order_relaxed);
        if (!list_held_back(fd, *this)) {
            _is_listed.store(false, std::memory_order_relaxed);
            show_now(e);
        }
    }
    return true;
}

// Under the send lock.
void stream::show_now(shm::end& e) noexcept {
    if (e.out.held_back() != 0) {
        e.out.publish(0);
        e.sent();
    }
}

// Through the daemon nothing is held back here, and the ring's head is not ours alone once it is plain.
void stream::show_rest() noexcept {
    auto s = sender();
    is_local() && s.held_back() != 0 ? s.show_all() : s.set_more(false);
}

void stream::cork(int fd, bool is_cork, bool on) noexcept {
    if (is_cork) {
        _page->corked.store(on ? 1 : 0, std::memory_order_relaxed);
    }
    if (is_cork != on && sender().held_back() != 0) {
        auto e = end(fd);
        side_lock lock(*this, e, side_lock::side::sends);
        if (lock.take()) {
            show_now(e);
        }
    }
}

bool stream::show_late_bytes(int fd, int64_t min_age_ns) noexcept {
    if (!_is_listed.load(std::memory_order_seq_cst)) {
        return false;
    }
    auto e = end(fd);
    side_lock lock(*this, e, side_lock::side::sends);
    if (!lock.take()) {
        return true;
    }
    if (base::now_ns() - _held_since_ns >= min_age_ns) {
        show_now(e);
    }
    const bool some = e.out.held_back() != 0;
    _is_listed.store(some, std::memory_order_seq_cst);
    return some;
}

}  // namespace vmsgr::client
