// What the ring's own code runs on in the explorer: words and a doorbell of which each access is a point.
#pragma once

#include "shm/tests/explore.hh"

namespace vmsgr::shm::explore {

// The words, instrumented.
template <typename T>
class word {
    mutable uint64_t _v = 0;
    const char* _name;

public:
    explicit word(const char* name, T v = 0) : _v(uint64_t(v)), _name(name) {}
    T raw() const { return T(_v); }
    T load(std::memory_order) const {
        world& w = *running;
        w.point(_name);
        if (std::exchange(stale, false)) {
            return stale_value;
        }
        auto v = T(w.load(_v));
        if (w.broken == fault::mark_means_awake && is_waits && w.self().producer &&
            announcement(uint32_t(v)).is_mark()) {
            v = 0;
        }
        w.note("  read", uint64_t(v));
        return v;
    }
    void store(T v, std::memory_order order) {
        world& w = *running;
        w.point(_name);
        w.note("  write", uint64_t(v));
        if (order == std::memory_order_seq_cst) {
            w.drain();
            _v = uint64_t(v);
        } else {
            w.store(_v, uint64_t(v));
        }
    }
    T exchange(T v, std::memory_order) {
        return locked("  exchange", [&](T old) { return dropped(old, v) ? old : v; });
    }
    T fetch_add(T v, std::memory_order) {
        return locked("  add", [&](T old) { return T(old + v); });
    }
    T fetch_sub(T v, std::memory_order) {
        return locked("  sub", [&](T old) { return T(old - v); });
    }
    T fetch_or(T v, std::memory_order) {
        return locked("  or", [&](T old) { return T(old | v); });
    }
    bool compare_exchange_strong(T& expected, T v, std::memory_order) {
        T old = locked("  compare", [&](T o) { return o == expected ? v : o; });
        return old == std::exchange(expected, old);
    }

    bool is_waits = false;
    mutable bool stale = false;  // the next load shows stale_value: a look that is not made
    T stale_value = 0;
    std::function<void(T)> after_exchange;

private:
    template <typename F>
    T locked(const char* what, F&& f) {
        world& w = *running;
        w.point(_name);
        w.drain();
        T old = T(_v);
        _v = uint64_t(f(old));
        w.note(what, _v);
        if (after_exchange) {
            after_exchange(old);
        }
        return old;
    }
    bool dropped(T old, T v) const {
        const world& w = *running;
        if (!is_waits) {
            return false;
        }
        return w.broken == fault::no_announcement && v == announcement::asleep().word() && old == 0;
    }
};

struct words {
    word<uint64_t> head{"head"}, base{"base"}, tail{"tail"};
    word<uint32_t> tokens_sent{"tokens_sent"}, flags{"flags"};
    word<int32_t> error{"error"};
    std::atomic<uint32_t> window{0};
    word<uint32_t> consumer_waits{"consumer_waits", announcement::asleep().word()};
    friend constexpr rewinding how_to_rewind(const words&) noexcept { return {2, 1}; }  // as often as can be
};

inline void full_fence(const words&) noexcept {
    world& w = *running;
    w.point("fence");
    if (w.broken != (w.self().producer ? fault::no_producer_fence : fault::no_consumer_fence)) {
        w.drain();
    }
}

// The doorbell; one call is one step. The kernel's locks drain nothing here: the ring may not count on them.
class doorbell {
public:
    bool send_token() noexcept {
        world& w = *running;
        w.point("send");
        if (w.consumer_gone) {
            return false;
        }
        if (w.q.there == w.q.refused_at) {
            if (w.may_refuse) {
                return false;
            }
            w.fail("the socket refused a token");
        }
        if (w.broken == fault::token_lost && w.choices.choose(2) == 1) {
            return true;
        }
        ++w.q.there;
        for (auto& f : w.fibers()) {
            f->in_edge = true;
        }
        return true;
    }
    bool writable() const noexcept {
        world& w = *running;
        w.point("writable?");
        return w.broken != fault::no_top_up && w.writable() && !w.consumer_gone;
    }
    uint32_t take_tokens(uint32_t n) noexcept {
        world& w = *running;
        w.point("take", n);
        if (w.broken == fault::take_everything) {
            n = w.q.there;
        }
        n = std::min(n, w.q.there);
        w.q.there -= n;
        if (n != 0 && w.writable()) {
            for (auto& f : w.fibers()) {
                f->out_edge = true;
            }
        }
        return n;
    }
    uint32_t unread() const noexcept {
        world& w = *running;
        w.point("unread");
        return w.q.there;
    }
};

}  // namespace vmsgr::shm::explore
