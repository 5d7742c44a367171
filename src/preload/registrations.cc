#include "preload/registrations.hh"

#include "base/pages.hh"

namespace vmsgr::preload {

namespace {

// Every eighth number, at most, shares its bucket with another one, and is not known by its data.
constexpr uint32_t buckets_first = 1024, buckets_a_number = 8, buckets_max = 1u << 22;

}  // namespace

void registrations::buckets::change(uint64_t data, int fd, int by) noexcept {
    auto& b = at(data);
    const uint64_t was = b.load(std::memory_order_relaxed);
    const auto numbers = uint32_t(int64_t(was >> 32) + by);
    b.store(uint64_t(numbers) << 32 | (uint32_t(was) ^ uint32_t(fd)), std::memory_order_release);
}

registrations::buckets* registrations::make_buckets(uint32_t n) noexcept {
    auto* b = static_cast<buckets*>(base::new_pages(sizeof(buckets) + n * sizeof(std::atomic<uint64_t>)));
    if (b != nullptr) {
        b->mask = n - 1;
    }
    return b;
}

template <typename Each>
void registrations::for_each_counted(Each&& each) noexcept {
    for (int c = 0; c < chunks_max; ++c) {
        entry* chunk = _chunks[c].load(std::memory_order_relaxed);
        for (int i = 0; chunk != nullptr && i < numbers_a_chunk; ++i) {
            if ((chunk[i].events.load(std::memory_order_relaxed) & counted) != 0) {
                each(c * numbers_a_chunk + i, chunk[i]);
            }
        }
    }
}

registrations::entry* registrations::find(int fd) const noexcept {
    if (unsigned(fd) >= unsigned(fds_max)) {
        return nullptr;
    }
    entry* chunk = _chunks[fd / numbers_a_chunk].load(std::memory_order_acquire);
    return chunk != nullptr ? &chunk[fd % numbers_a_chunk] : nullptr;
}

int registrations::alone_beside(uint64_t data) const noexcept {
    buckets* b = _buckets.load(std::memory_order_acquire);
    const uint64_t found = b != nullptr ? b->at(data).load(std::memory_order_acquire) : 0;
    return found >> 32 == 1 ? int(uint32_t(found)) : -1;
}

int registrations::owner_of(uint64_t data) const noexcept {
    const int fd = alone_beside(data);
    const entry* e = find(fd);
    return e != nullptr && e->data.load(std::memory_order_relaxed) == data ? fd : -1;
}

bool registrations::note_same(int op, int fd, const epoll_event* event) noexcept {
    entry* e = find(fd);
    if (e == nullptr) {
        return op == EPOLL_CTL_DEL;
    }
    const uint32_t was = e->events.load(std::memory_order_relaxed);
    if (op == EPOLL_CTL_DEL) {
        e->events.store(was & counted, std::memory_order_relaxed);
    } else if ((was & counted) != 0 && e->data.load(std::memory_order_relaxed) == event->data.u64) {
        e->events.store(event->events | registered | counted, std::memory_order_relaxed);
    } else {
        return false;
    }
    e->version.fetch_add(1, std::memory_order_release);
    return true;
}

// The smaller buckets stay for whoever reads them without the lock.
bool registrations::make_room() noexcept {
    buckets* now = _buckets.load(std::memory_order_relaxed);
    const uint32_t n = now != nullptr ? now->mask + 1 : 0;
    if (n >= buckets_a_number * (_numbers + 1) || n >= buckets_max) {
        return true;
    }
    buckets* larger = make_buckets(n != 0 ? 8 * n : buckets_first);
    if (larger == nullptr) {
        return now != nullptr;
    }
    for_each_counted([&](int fd, entry& e) { larger->change(e.data.load(std::memory_order_relaxed), fd, 1); });
    _buckets.store(larger, std::memory_order_release);
    return true;
}

bool registrations::note(int fd, const epoll_event& event) noexcept {
    if (unsigned(fd) >= unsigned(fds_max) || !make_room()) {
        return false;
    }
    auto& chunk = _chunks[fd / numbers_a_chunk];
    if (chunk.load(std::memory_order_relaxed) == nullptr) {
        auto* made = static_cast<entry*>(base::new_pages(numbers_a_chunk * sizeof(entry)));
        if (made == nullptr) {
            return false;
        }
        chunk.store(made, std::memory_order_release);
    }
    forget(fd);
    entry& e = *find(fd);
    _buckets.load(std::memory_order_relaxed)->change(event.data.u64, fd, 1);
    ++_numbers;
    e.data.store(event.data.u64, std::memory_order_relaxed);
    e.events.store(event.events | registered | counted, std::memory_order_relaxed);
    e.version.fetch_add(1, std::memory_order_release);
    return true;
}

void registrations::forget(int fd) noexcept {
    entry* e = find(fd);
    if (e == nullptr || (e->events.load(std::memory_order_relaxed) & counted) == 0) {
        return;
    }
    _buckets.load(std::memory_order_relaxed)->change(e->data.load(std::memory_order_relaxed), fd, -1);
    --_numbers;
    e->events.store(0, std::memory_order_relaxed);
    e->version.fetch_add(1, std::memory_order_release);
}

void registrations::clear() noexcept {
    for_each_counted([&](int fd, entry&) { forget(fd); });
}

}  // namespace vmsgr::preload
