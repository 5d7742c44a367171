#include "conn/users.hh"

#include <unistd.h>

#include <algorithm>

namespace vmsgr::conn {

namespace {

constexpr int64_t pause_ms = 1000;
constexpr amounts without_limit{UINT32_MAX,     UINT32_MAX, UINT32_MAX, UINT32_MAX,
                                UINT64_MAX / 2, UINT32_MAX, UINT32_MAX, UINT32_MAX};

int64_t now_ms() noexcept {
    using namespace std::chrono;
    return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

// No limit but that of all.
bool is_trusted(uid_t uid) noexcept { return uid == 0 || uid == ::geteuid(); }

bool is_idle(const user_ptr& u) noexcept {
    return u.use_count() == 1 && u->closing.waiting.load(std::memory_order_acquire) == 0 && !u->is_suspended();
}

}  // namespace

uint64_t user::room(uint64_t ring_bytes) const noexcept {
    return std::min({of.connections.room(), of.fds.room() / fds_per_connection, of.memory.room() / (2 * ring_bytes)});
}

void user::suspend() noexcept { _suspended_until_ms.store(now_ms() + pause_ms, std::memory_order_relaxed); }
bool user::is_suspended() const noexcept { return now_ms() < _suspended_until_ms.load(std::memory_order_relaxed); }

users::~users() {
    for (auto& [uid, u] : _all) {
        if (u->closing.waiting.load(std::memory_order_acquire) != 0) {
            (void)new user_ptr(u);  // a thread of the closer is at it still
        }
    }
}

user_ptr users::find(uid_t uid) {
    auto at = _all.find(uid);
    if (at == _all.end()) {
        if (_all.size() >= _sweep_at) {
            sweep();
        }
        at = _all.emplace(uid, std::make_shared<user>(uid, is_trusted(uid) ? without_limit : _limits)).first;
    }
    return at->second;
}

void users::set_limits(const amounts& limits) noexcept {
    _limits = limits;
    for (auto& [uid, u] : _all) {
        if (!is_trusted(uid)) {
            u->of.set_limits(limits);
        }
    }
}

void users::sweep() {
    std::erase_if(_all, [](auto& entry) { return is_idle(entry.second); });
    _sweep_at = std::max<size_t>(64, 2 * _all.size());
}

std::vector<user_ptr> users::list() const {
    std::vector<user_ptr> out;
    for (auto& [uid, u] : _all) {
        if (!is_idle(u)) {
            out.push_back(u);
        }
    }
    return out;
}

}  // namespace vmsgr::conn
