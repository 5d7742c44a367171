#include "ssx/event_set.hh"

#include <sys/eventfd.h>

#include <seastar/core/coroutine.hh>
#include <seastar/core/posix.hh>
#include <seastar/coroutine/maybe_yield.hh>

namespace vmsgr::ssx {

namespace {

constexpr uint32_t interest = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET;
constexpr int batch = 256;

uint64_t pack(uint32_t index, uint32_t generation) noexcept { return uint64_t(generation) << 32 | index; }

}  // namespace

void event_set::registration::reset() noexcept {
    if (auto* set = std::exchange(_set, nullptr)) {
        set->remove(_index, _fd);
    }
}

void event_set::start() {
    auto fd = seastar::file_desc::epoll_create(EPOLL_CLOEXEC);
    _epoll_fd = fd.get();
    _stop_event.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    seastar::throw_system_error_on(!_stop_event, "eventfd");
    // Slot 0 belongs to it and has no sink.
    _slots.emplace_back();
    epoll_event ev{};
    ev.events = EPOLLIN;
    seastar::throw_system_error_on(::epoll_ctl(_epoll_fd, EPOLL_CTL_ADD, _stop_event.get(), &ev) != 0, "epoll_ctl");
    _watch.emplace(std::move(fd));
    _fiber = watch();
}

seastar::future<> event_set::stop() {
    _stopping = true;
    if (_stop_event) {
        ::eventfd_write(_stop_event.get(), 1);
    }
    if (auto fiber = std::exchange(_fiber, std::nullopt)) {
        co_await std::move(*fiber);
    }
    _watch.reset();
    _epoll_fd = -1;
}

base::result<event_set::registration> event_set::add(int fd, event_sink& sink) {
    if (_free.empty()) {
        if (_free.capacity() <= _slots.size()) {  // remove() may not fail
            _free.reserve(2 * _slots.size());
        }
        _slots.emplace_back();
        _free.push_back(uint32_t(_slots.size() - 1));
    }
    uint32_t index = _free.back();
    epoll_event ev{};
    ev.events = interest;
    ev.data.u64 = pack(index, _slots[index].generation);
    if (::epoll_ctl(_epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0) {
        return std::unexpected(base::os_error("epoll_ctl"));
    }
    _free.pop_back();
    _slots[index].sink = &sink;
    return registration(this, index, fd);
}

void event_set::remove(uint32_t index, int fd) noexcept {
    ::epoll_ctl(_epoll_fd, EPOLL_CTL_DEL, fd, nullptr);
    _slots[index].sink = nullptr;
    ++_slots[index].generation;  // an event of it that waits in the present batch finds nobody
    _free.push_back(index);
}

bool event_set::poll() noexcept {
    epoll_event events[batch];
    ++_turn;
    int n = ::epoll_wait(_epoll_fd, events, batch, 0);
    for (int i = 0; i < n; ++i) {
        uint32_t index = uint32_t(events[i].data.u64);
        uint32_t generation = uint32_t(events[i].data.u64 >> 32);
        // Taken anew each time: a sink may add and remove registrations.
        slot s = _slots[index];
        if (s.generation == generation && s.sink != nullptr) {
            s.sink->on_events(events[i].events);
        }
    }
    return n == batch;
}

seastar::future<> event_set::watch() {
    while (!_stopping) {
        co_await _watch->readable();
        while (!_stopping && poll()) {
            co_await seastar::coroutine::maybe_yield();
        }
    }
}

}  // namespace vmsgr::ssx
