#include "conn/local_conns.hh"

#include <string.h>
#include <unistd.h>

#include <array>

#include <seastar/core/smp.hh>

namespace vmsgr::net {

namespace {

constexpr auto look_period = std::chrono::milliseconds(500);
constexpr size_t looks_a_period = 2000;  // about a millisecond
constexpr size_t looks_when_idle = 50;
constexpr size_t looks_an_add = 2;

// What the two programs wrote: believed for people and for forgetting, for nothing else.
struct words {
    uint64_t carried = 0;  // before this connection
    uint64_t head[2] = {0, 0};
    bool left[2] = {false, false};
    bool shared[2] = {false, false};
    bool kept = false;

    uint64_t bytes() const noexcept { return carried + head[0] + head[1]; }
};

// One pread, which cannot fault, whatever became of the memory.
words read_words(const local_conn& c) noexcept {
    std::array<std::byte, sizeof(shm::conduit_header)> header{};
    if (::pread(c.memory.get(), header.data(), header.size(), 0) != ssize_t(header.size())) {
        return {};
    }
    constexpr size_t ring = offsetof(shm::conduit_header, ring), end = offsetof(shm::conduit_header, end);
    words w;
    memcpy(&w.carried, &header[offsetof(shm::conduit_header, carried)], sizeof w.carried);
    for (size_t i = 0; i < 2; ++i) {
        uint32_t flags = 0;
        memcpy(&w.head[i], &header[ring + i * sizeof(shm::ring_words)], sizeof w.head[i]);
        memcpy(&flags, &header[end + i * sizeof(shm::conduit_header::end_word)], sizeof flags);
        w.left[i] = (flags & shm::end_left) != 0;
        w.shared[i] = (flags & shm::end_shared) != 0;
        w.kept = w.kept || (i == 0 && (flags & shm::end_kept) != 0);
    }
    return w;
}

// The acceptor's own page says that it is done with the connection. One pread, as above.
bool page_is_over(int page) noexcept {
    uint64_t magic = 0;
    return ::pread(page, &magic, sizeof magic, 0) == ssize_t(sizeof magic) && magic == shm::end_page_done;
}

// The programs' memory is theirs again, if one of them still has it.
void say_forgotten(const local_conn& c) noexcept {
    constexpr uint32_t yes = 1;
    // Memory that cannot be written to is no loss but theirs.
    [[maybe_unused]] ssize_t ignored =
        ::pwrite(c.memory.get(), &yes, sizeof yes, offsetof(shm::conduit_header, forgotten));
}

}  // namespace

void local_conns::show(local_conn& c) noexcept {
    for (unsigned end : {0u, 1u}) {
        auto& e = c.ends[end];
        e.slot = e.place.owner->show(e.key, end == 0 ? conn_role::client : conn_role::server,
                                     seastar::this_shard_id(), e.fd);
        e.place.owner->show_addresses(e.slot, e.local, e.peer);
    }
}

const local_conn& local_conns::add(local_conn c) {
    look_at(looks_an_add);
    const uint64_t id = c.id;
    show(c);
    for (unsigned end : {0u, 1u}) {
        auto& e = c.ends[end];
        _by_key.emplace(e.key, std::pair(id, end));
        auto [at, fresh] = _programs.try_emplace(e.place.owner.get());
        ++at->second.count;
        if (fresh) {
            at->second.left = e.place.owner->segment().locals_left.load(std::memory_order_relaxed);
        }
    }
    if (!_timer.armed()) {
        _timer.arm(look_period);
    }
    return _all.emplace(id, std::move(c)).first->second;
}

// Nothing of it shows any more, and it counts for no limit but that on descriptors.
void local_conns::rest(local_conn& c) noexcept {
    for (auto& e : c.ends) {
        e.place.owner->hide(std::exchange(e.slot, shm::no_slot));
        e.place.total = lease();
        e.place.of_session = lease();
    }
    c.tcp.reset();
}

void local_conns::unlist(local_conn& c) noexcept {
    for (auto& e : c.ends) {
        e.place.owner->hide(std::exchange(e.slot, shm::no_slot));
        _by_key.erase(e.key);
        if (auto at = _programs.find(e.place.owner.get()); --at->second.count == 0) {
            _programs.erase(at);
        }
    }
}

std::optional<local_conn> local_conns::take_again(uint64_t key, const program& connecting, const program& accepting,
                                                  uint64_t listener) noexcept {
    auto known = _by_key.find(key);
    if (known == _by_key.end() || known->second.second != 0) {
        return std::nullopt;
    }
    auto at = _all.find(known->second.first);
    auto& c = at->second;
    if (c.ends[0].place.owner.get() != &connecting || c.ends[1].place.owner.get() != &accepting ||
        c.listener != listener || !page_is_over(c.ends[1].page.get())) {
        return std::nullopt;
    }
    unlist(c);
    auto out = std::optional(std::move(c));
    out->resting.reset();
    _all.erase(at);
    return out;
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
        sum += w.bytes();
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
    auto& c = at->second;
    words w = read_words(c);
    bool anybody_ended = false;
    for (unsigned end : {0u, 1u}) {
        auto& owner = *c.ends[end].place.owner;
        anybody_ended = anybody_ended || owner.ended();
        if (!w.left[end] && !(w.shared[end] ? owner.ended_long_ago() : owner.ended())) {
            return;
        }
    }
    if (w.kept && !anybody_ended) {
        // Too many at rest: it goes on counting as open. To forget it would lose the connection that may be on its way.
        if (!c.resting && (c.resting = lease::take(c.ends[0].place.owner->kept))) {
            rest(c);
        }
        return;
    }
    _bytes += w.bytes();
    if (w.kept) {
        say_forgotten(c);
    }
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

bool local_conns::any_left() noexcept {
    bool any = false;
    for (auto& [p, ends] : _programs) {
        uint64_t left = p->segment().locals_left.load(std::memory_order_relaxed);
        any = any || left != ends.left;
        ends.left = left;
    }
    return any;
}

void local_conns::on_timer() noexcept {
    if (any_left()) {
        _to_look_at = _all.size();
    }
    const size_t now = std::min(_to_look_at, looks_a_period);
    _to_look_at -= now;
    look_at(std::max(now, looks_when_idle));
    if (!_all.empty()) {
        _timer.arm(look_period);
    }
}

void local_conns::forget(std::map<uint64_t, local_conn>::iterator at) noexcept {
    unlist(at->second);
    _all.erase(at);
}

void local_conns::clear() noexcept {
    _timer.cancel();
    while (!_all.empty()) {
        forget(_all.begin());
    }
}

}  // namespace vmsgr::net
