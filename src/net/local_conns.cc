#include "net/local_conns.hh"

#include <string.h>
#include <unistd.h>

#include <array>

#include <seastar/core/smp.hh>

namespace vmsgr::net {

namespace {

constexpr auto look_period = std::chrono::milliseconds(500);
constexpr size_t looks_a_period = 2000;  // about a millisecond
constexpr size_t looks_an_add = 2;

// What the two programs wrote: believed for people and for forgetting, for nothing else.
struct words {
    uint64_t head[2] = {0, 0};
    bool left[2] = {false, false};
    bool shared[2] = {false, false};
};

// One pread, which cannot fault, whatever became of the memory.
words read_words(const local_conn& c) noexcept {
    std::array<std::byte, sizeof(shm::conduit_header)> header{};
    if (::pread(c.memory.get(), header.data(), header.size(), 0) != ssize_t(header.size())) {
        return {};
    }
    constexpr size_t ring = offsetof(shm::conduit_header, ring), end = offsetof(shm::conduit_header, end);
    words w;
    for (size_t i = 0; i < 2; ++i) {
        uint32_t flags = 0;
        memcpy(&w.head[i], &header[ring + i * sizeof(shm::ring_words)], sizeof w.head[i]);
        memcpy(&flags, &header[end + i * sizeof(shm::conduit_header::end_word)], sizeof flags);
        w.left[i] = (flags & shm::end_left) != 0;
        w.shared[i] = (flags & shm::end_shared) != 0;
    }
    return w;
}

}  // namespace

const local_conn& local_conns::add(local_conn c) {
    look_at(looks_an_add);
    const uint64_t id = c.id;
    for (unsigned end : {0u, 1u}) {
        auto& e = c.ends[end];
        e.slot = e.place.owner->show(e.key, end == 0 ? conn_role::client : conn_role::server,
                                     seastar::this_shard_id(), e.fd);
        e.place.owner->show_addresses(e.slot, e.local, e.peer);
        _by_key.emplace(e.key, std::pair(id, end));
    }
    if (!_timer.armed()) {
        _timer.arm(look_period);
    }
    return _all.emplace(id, std::move(c)).first->second;
}

const local_conn* local_conns::find(uint64_t key, unsigned& end) const noexcept {
    auto at = _by_key.find(key);
    if (at == _by_key.end()) {
        return nullptr;
    }
    end = at->second.second;
    return &_all.find(at->second.first)->second;
}

std::vector<conn_info> local_conns::list(uint64_t after, size_t limit) const {
    std::vector<conn_info> out;
    for (auto at = _all.upper_bound(after); at != _all.end() && out.size() + 2 <= limit; ++at) {
        auto& c = at->second;
        words w = read_words(c);
        if (w.left[0] && w.left[1]) {
            continue;  // forgotten soon
        }
        for (unsigned end : {0u, 1u}) {
            auto& e = c.ends[end];
            auto& owner = *e.place.owner;
            if (owner.ended() && !w.shared[end]) {
                continue;
            }
            conn_info i;
            i.id = c.id;
            i.session = owner.session_id;
            i.pid = owner.pid;
            i.fd = e.slot != shm::no_slot ? owner.shown_fd(e.slot) : e.fd;
            i.role = end == 0 ? conn_role::client : conn_role::server;
            i.local = e.local;
            i.peer = e.peer;
            i.route = c.route;
            i.shard = seastar::this_shard_id();
            i.state = w.left[0] || w.left[1] ? conn_state::closing : conn_state::established;
            i.bytes_in = w.head[1 - end];
            i.bytes_out = w.head[end];
            i.opened_s = c.opened_s;
            i.path = conn_path::local;
            out.push_back(std::move(i));
        }
    }
    return out;
}

uint64_t local_conns::bytes() const noexcept {
    uint64_t sum = _bytes;
    for (auto& [id, c] : _all) {
        words w = read_words(c);
        sum += w.head[0] + w.head[1];
    }
    return sum;
}

void local_conns::look_at(size_t how_many) noexcept {
    auto at = _all.upper_bound(_looked_at);
    for (size_t i = std::min(how_many, _all.size()); i != 0; --i) {
        if (at == _all.end()) {
            at = _all.begin();
        }
        auto next = std::next(at);
        _looked_at = at->first;
        forget_if_over(at);
        at = next;
    }
}

void local_conns::forget_if_over(std::map<uint64_t, local_conn>::iterator at) noexcept {
    words w = read_words(at->second);
    for (unsigned end : {0u, 1u}) {
        auto& owner = *at->second.ends[end].place.owner;
        if (!w.left[end] && !(w.shared[end] ? owner.ended_long_ago() : owner.ended())) {
            return;
        }
    }
    _bytes += w.head[0] + w.head[1];
    forget(at);
}

void local_conns::owner_ended(const program& p) noexcept {
    for (auto at = _all.begin(); at != _all.end();) {
        auto next = std::next(at);
        auto& ends = at->second.ends;
        if (ends[0].place.owner.get() == &p || ends[1].place.owner.get() == &p) {
            forget_if_over(at);
        }
        at = next;
    }
}

void local_conns::on_timer() noexcept {
    look_at(looks_a_period);
    if (!_all.empty()) {
        _timer.arm(look_period);
    }
}

void local_conns::forget(std::map<uint64_t, local_conn>::iterator at) noexcept {
    for (auto& e : at->second.ends) {
        e.place.owner->hide(e.slot);
        _by_key.erase(e.key);
    }
    _all.erase(at);
}

void local_conns::clear() noexcept {
    _timer.cancel();
    while (!_all.empty()) {
        forget(_all.begin());
    }
}

}  // namespace vmsgr::net
