// The connections that the keeper holds: handing over those that are not young any more, and going on with those of an
// earlier worker.
#include <sys/socket.h>

#include <algorithm>

#include <seastar/core/coroutine.hh>
#include <seastar/core/sleep.hh>
#include <seastar/core/smp.hh>

#include "base/sockets.hh"
#include "conn/carrier.hh"
#include "conn/kernel_socket.hh"
#include "conn/log.hh"
#include "conn/tcp_count.hh"

namespace vmsgr::conn {

namespace {

// Most connections end before that, and cost nothing.
constexpr auto young_time = std::chrono::milliseconds(20);
constexpr unsigned tries_max = 50;  // it has an urgent byte, or there is no entry
constexpr auto keeping_interval = std::chrono::milliseconds(10);
constexpr size_t closing_usual = 1024;  // takes no memory then
// How long an end waits for the keeper, which answers at once.
constexpr auto back_limit = std::chrono::milliseconds(100);
constexpr auto back_pause = std::chrono::microseconds(200);

// The mark is on the socket still, unless the program has set another value, or a reset itself.
end_mark mark_of(const keeper::connection_facts& f, int tcp) noexcept {
    return f.has_linger != 0 && base::lingers_zero(tcp) ? end_mark(linger{f.linger[0], f.linger[1]}) : end_mark();
}

// The bytes that have moved, as the kernel counts them. Null, or why they are not known.
const char* count_again(const keeper::connection_facts& f, int tcp, restored& from) noexcept {
    constexpr int on = 1;
    ::setsockopt(tcp, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on);
    const auto counted = count_tcp(tcp);
    if (from.life.over()) {
        return nullptr;
    }
    if (counted) {
        from.sent = counted->written - f.sent_base;
        from.received = counted->read - f.received_base;
    }
    return counted ? nullptr : counted.error();
}

}  // namespace

void carrier::start_keeping(std::span<keeper::entry> ledger, std::span<const keeper::kept> held) {
    if (_settings.custody < 0) {
        return;
    }
    _kept = keeper::ledger_share(ledger, held, seastar::this_shard_id(), seastar::smp::count, _settings.custody);
    _closing.reserve(closing_usual);
    _keeping_timer.set_callback([this] { keep(); });
    _keeping_timer.arm_periodic(keeping_interval);
}

void carrier::keep_later(uint64_t id) noexcept {
    if (_settings.custody >= 0) {
        later({seastar::lowres_clock::now() + young_time, id, 0});
    }
}

bool carrier::later(young y) noexcept try {
    _young.push_back(y);
    return true;
} catch (const std::bad_alloc&) {
    ++count().no_memory;
    return false;
}

void carrier::keep() {
    _kept.tick();
    std::erase_if(_closing, [this](closing& c) {
        if (!_kept.is_back(*c.entry)) {
            return false;
        }
        for (auto& fd : c.fds) {
            if (fd) {
                let_go(fd, *c.sender);
            }
        }
        _kept.leave(*c.entry);
        return true;
    });
    const auto now = seastar::lowres_clock::now();
    for (size_t left = _young.size(); left > 0 && _young.front().at <= now; --left) {
        const auto first = _young.front();
        _young.pop_front();
        const auto found = _conns.find(first.id);
        if (found == _conns.end()) {
            continue;
        }
        auto& c = *found->second;
        if (c.hand_over() || first.tries == tries_max || !later({now + young_time, first.id, first.tries + 1})) {
            c.stay_here();
        }
    }
}

unsigned carrier::hand_over_all() noexcept {
    std::erase_if(_young, [this](const young& y) {
        const auto found = _conns.find(y.id);
        return found == _conns.end() || found->second->hand_over();
    });
    return unsigned(_young.size());
}

seastar::future<bool> carrier::take_back(keeper::entry& e) {
    _kept.ask_back(e);
    const auto until = std::chrono::steady_clock::now() + back_limit;
    while (!_kept.is_back(e)) {
        if (std::chrono::steady_clock::now() > until) {
            co_return false;
        }
        co_await seastar::sleep(back_pause);
    }
    co_return true;
}

void carrier::close_when_back(keeper::entry& e, kept_descriptors fds, user_ptr sender) noexcept {
    _kept.ask_back(e);
    try {
        auto& c = _closing.emplace_back();
        c.entry = &e;
        c.fds = std::move(fds);
        c.sender = std::move(sender);
    } catch (const std::bad_alloc&) {
        for (auto& fd : fds) {
            if (fd) {
                ++count().never_closed;
                (void)fd.release();
            }
        }
    }
}

unsigned carrier::rest() noexcept {
    return unsigned(std::ranges::count_if(_conns, [](auto& c) { return !c.second->rest(); }));
}

// Why not; null: it goes on.
const char* carrier::go_on(keeper::entry& e, kept_descriptors& fds, program_ptr owner, places place, budget& all,
                           std::unique_ptr<far_side> far) {
    const auto& f = e.connection;
    const auto life = life::connection::restore(f.life[f.life_at.load(std::memory_order_acquire) & 1]);
    if (!life || f.plain.load(std::memory_order_relaxed) != 0) {
        return life ? "it was plain" : life.error();
    }
    if (f.trunk != 0 && !far) {
        return "its trunk has ended";
    }
    auto memory = _arenas.join(fds[keeper::kept_arena].get(), f.slot, all, owner);
    if (!memory) {
        return "its memory cannot be mapped";
    }
    const auto conduit = memory->conduit();
    const auto& ring = conduit.header().ring;
    restored from{*life, ring[0].tail.load(std::memory_order_acquire), ring[1].head.load(std::memory_order_acquire), &e,
                  f.opened_s};
    auto& tcp = fds[keeper::kept_tcp];
    const uint32_t program = conduit.header().end[0].flags.load(std::memory_order_acquire);
    from.gone = f.trunk == 0 && (program & shm::end_granted) != 0;
    if (const char* why = from.gone || f.trunk != 0 ? nullptr : count_again(f, tcp.get(), from)) {
        return why;
    }
    if (ring[0].head.load(std::memory_order_acquire) - from.sent > conduit.capacity ||
        from.received - ring[1].tail.load(std::memory_order_acquire) > conduit.capacity) {
        return "its counts are beyond its rings";
    }
    const uint64_t count = seastar::smp::count;
    constexpr uint64_t ours = uint64_t(1) << 63;
    if ((f.id & ours) != 0) {
        _ids = std::max(_ids, (f.id - (ours - ours % count)) / count + 1);
    }
    vm_conn::parts p;
    p.role = conn_role(f.role);
    p.place = std::move(place);
    p.route = text_in(f.route);
    p.program_fd = f.program_fd;
    p.shown = owner->show_again(f.shown, f.id, p.role, seastar::this_shard_id(), f.program_fd);
    p.peer = f.peer;
    if (f.trunk == 0 && (!from.gone || (program & shm::end_recalled) == 0)) {
        p.mark = mark_of(f, tcp.get());  // else SO_LINGER is the program's
    }
    p.far = std::move(far);
    p.tcp = std::move(tcp);
    p.bell = std::move(fds[keeper::kept_bell]);
    p.conduit = conduit;
    p.memory = std::move(*memory);
    p.from = from;
    const auto state = life->at == life::phase::connecting ? conn_state::connecting : conn_state::established;
    run(seastar::make_lw_shared<vm_conn>(*this, f.id, state, std::move(p)));
    return nullptr;
}

bool carrier::take_over(keeper::entry& e, kept_descriptors fds, program_ptr owner, places place, budget& all,
                        const char* why, std::unique_ptr<far_side> far) {
    try {
        why = why != nullptr ? why
              : place.owner  ? go_on(e, fds, owner, std::move(place), all, std::move(far))
                             : no_room_in_limits;
    } catch (const std::bad_alloc&) {
        why = "there is no memory";
    }
    if (why == nullptr) {
        return true;
    }
    log.warn("a connection of pid {} to {} is reset: another worker carried it, and {}", e.owner.pid,
             base::to_string(e.connection.peer), why);
    ++count().resets_sent;
    if (fds[keeper::kept_tcp]) {
        disconnect_tcp(fds[keeper::kept_tcp].get());
    }
    close_when_back(e, std::move(fds), owner->owner);  // the program sees a reset then, as after a kill
    return false;
}

}  // namespace vmsgr::conn
