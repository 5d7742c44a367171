#include "conn/program.hh"

#include <bit>
#include <chrono>

namespace vmsgr::conn {

program::program(uint64_t id, pid_t pid_, user_ptr owner_, std::string name_, uint64_t features_,
                 uint32_t connections_max, shm::mapping segment)
    : _segment(std::move(segment)),
      session_id(id),
      pid(pid_),
      owner(std::move(owner_)),
      name(std::move(name_)),
      features(features_),
      connections(connections_max) {
    connections.show_in(this->segment().connections);
}

namespace {

constexpr int64_t inheritance_ms = 2000;

int64_t now_ms() noexcept {
    using namespace std::chrono;
    return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

double unix_time_s() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

void program::end() noexcept { _gone_ms.store(now_ms(), std::memory_order_relaxed); }

bool program::ended_long_ago() const noexcept {
    int64_t at = _gone_ms.load(std::memory_order_relaxed);
    return at != 0 && now_ms() - at > inheritance_ms;
}

uint32_t program::take_slot() noexcept {
    uint32_t start = _slot_hint.load(std::memory_order_relaxed);
    for (uint32_t i = 0; i < _taken.size(); ++i) {
        uint32_t word = uint32_t((start + i) % _taken.size());
        uint64_t bits = _taken[word].load(std::memory_order_relaxed);
        while (~bits != 0) {
            uint32_t bit = uint32_t(std::countr_one(bits));
            if (_taken[word].compare_exchange_weak(bits, bits | uint64_t(1) << bit, std::memory_order_acquire)) {
                _slot_hint.store(word, std::memory_order_relaxed);
                return word * 64 + bit;
            }
        }
    }
    return shm::no_slot;
}

uint32_t program::show(uint64_t id, conn_role role, unsigned shard, int fd) noexcept {
    uint32_t slot = take_slot();
    if (slot != shm::no_slot) {
        auto& e = segment().connected[slot];
        e.id = id;
        e.role = uint32_t(role);
        e.shard = shard;
        e.local = {};
        e.peer = {};
        e.fd.store(fd, std::memory_order_relaxed);
        e.state.store(shm::slot_posted, std::memory_order_release);
    }
    return slot;
}

uint32_t program::show_again(uint32_t slot, uint64_t id, conn_role role, unsigned shard, int fd) noexcept {
    const uint64_t bit = uint64_t(1) << slot % 64;
    if (slot < shm::connected_slots && segment().connected[slot].id == id &&
        (_taken[slot / 64].fetch_or(bit, std::memory_order_acquire) & bit) == 0) {
        return slot;
    }
    return show(id, role, shard, fd);
}

void program::show_addresses(uint32_t slot, const base::address& local, const base::address& peer) noexcept {
    if (slot != shm::no_slot) {
        segment().connected[slot].local = local;
        segment().connected[slot].peer = peer;
    }
}

int program::shown_fd(uint32_t slot) const noexcept {
    return slot == shm::no_slot ? -1 : segment().connected[slot].fd.load(std::memory_order_relaxed);
}

void program::hide(uint32_t slot) noexcept {
    if (slot != shm::no_slot) {
        segment().connected[slot].state.store(shm::slot_free, std::memory_order_release);
        _taken[slot / 64].fetch_and(~(uint64_t(1) << slot % 64), std::memory_order_release);
    }
}

}  // namespace vmsgr::conn
