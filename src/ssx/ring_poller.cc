#include "ssx/ring_poller.hh"

namespace vmsgr::ssx {

class ring_poller::pollfn final : public seastar::pollfn {
    ring_poller& _owner;

public:
    explicit pollfn(ring_poller& owner) noexcept : _owner(owner) {}
    bool poll() override { return _owner.poll(); }
    bool pure_poll() override { return _owner.look(); }
    bool try_enter_interrupt_mode() override { return _owner.park_all(); }
    // Parked rings come back by their doorbells.
    void exit_interrupt_mode() override {}
};

void ring_poller::start(std::chrono::microseconds window) {
    _window = window;
    _poller.emplace(std::make_unique<pollfn>(*this));
}

void ring_poller::activate(ring_waiter& w) {
    w._active_at = std::chrono::steady_clock::now();
    if (!polls(w)) {
        w._position = uint32_t(_active.size());
        _active.push_back(&w);
    }
}

void ring_poller::forget(ring_waiter& w) noexcept {
    if (!polls(w)) {
        return;
    }
    ring_waiter* last = _active.back();
    _active[w._position] = last;
    last->_position = w._position;
    _active.pop_back();
    w._position = ring_waiter::not_listed;
}

bool ring_poller::poll() noexcept {
    if (_active.empty()) {
        return false;
    }
    bool worked = false;
    auto now = std::chrono::steady_clock::now();
    for (size_t i = 0; i < _active.size();) {
        ring_waiter& w = *_active[i];
        if (w.rings_ready()) {
            w.wake_ring_waits();
            w._active_at = now;
            worked = true;
        } else if (now - w._active_at > _window) {
            if (w.park()) {
                forget(w);  // another one stands at i now
                continue;
            }
            w._active_at = now;
            worked = true;
        }
        ++i;
    }
    return worked;
}

bool ring_poller::look() const noexcept {
    for (auto* w : _active) {
        if (w->rings_ready()) {
            return true;
        }
    }
    return false;
}

bool ring_poller::park_all() noexcept {
    while (!_active.empty()) {
        ring_waiter& w = *_active.back();
        if (!w.park()) {
            return false;
        }
        forget(w);
    }
    return true;
}

}  // namespace vmsgr::ssx
