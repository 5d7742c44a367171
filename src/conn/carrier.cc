#include "conn/carrier.hh"

#include <errno.h>
#include <sys/random.h>

#include <seastar/core/coroutine.hh>
#include <seastar/core/smp.hh>

#include "conn/kernel_socket.hh"
#include "conn/log.hh"
#include "proto/control.hh"
#include "ssx/idle_yield.hh"

namespace vmsgr::net {

seastar::future<> carrier::start() {
    _alarm.start();
    _events.start();
    _rings.start(_settings.poll_window);
    ssx::yield_when_idle();
    return seastar::make_ready_future<>();
}

seastar::future<> carrier::stop() {
    // stop() may end a connection at once, but it leaves the map only in a later task.
    for (auto& [id, c] : _conns) {
        c->stop();
    }
    co_await _gate.close();
    _locals.clear();
    _rings.stop();
    co_await _events.stop();
    _alarm.stop();
}

void carrier::connect(vm_conn::parts p, int refusal) {
    auto c = seastar::make_lw_shared<vm_conn>(*this, next_id(), conn_state::connecting, std::move(p));
    if (refusal != 0) {
        c->refuse(refusal);
        return;
    }
    run(std::move(c));
}

std::optional<delivery> carrier::accept(base::unique_fd tcp, places place, std::string route,
                                        std::unique_ptr<wire> far) {
    if (_gate.is_closed()) {
        return std::nullopt;
    }
    vm_conn::parts p;
    p.key = new_key();
    p.role = conn_role::server;
    p.place = std::move(place);
    p.route = std::move(route);
    p.tcp = std::move(tcp);
    p.far = std::move(far);
    auto conduit = shm::create_conduit(_settings.ring_bytes, p.key);
    auto page = shm::create_end_page();
    auto bell = shm::make_bell();
    if (!conduit || !bell || !page) {
        static thread_local seastar::logger::rate_limit rate(std::chrono::seconds(1));
        log.log(seastar::log_level::warn, rate, "an accepted connection is reset: {}",
                (!conduit ? conduit.error() : !page ? page.error() : bell.error()).text);
        ++_count.refused;
        reset_tcp(p.tcp);
        return std::nullopt;
    }
    shm::prepare_bell(*bell, p.key);
    p.memory = std::move(conduit->fd);
    p.page = std::move(page->fd);
    p.conduit = std::move(conduit->memory);
    p.bell = std::move(bell->other);
    delivery d;
    d.key = p.key;
    d.flags = p.far ? uint32_t(proto::accepted_trunk) : 0;
    d.memory = duplicate(p.memory.get());
    d.page = duplicate(p.page.get());
    d.bell = std::move(bell->program);
    auto c = seastar::make_lw_shared<vm_conn>(*this, next_id(), conn_state::established, std::move(p));
    d.slot = c->slot();
    d.local = c->local();
    d.peer = c->peer();
    run(std::move(c));
    return d;
}

void carrier::run(conn_ptr c) {
    auto holder = _gate.try_hold();
    if (!holder) {
        return;  // the daemon stops; the object's end closes everything
    }
    ++_count.connections_total;
    _conns.emplace(c->id(), c);
    _by_key.emplace(c->key(), c.get());
    // The fiber holds the connection, and the gate holds the fiber.
    (void)c->run()
        .handle_exception([](std::exception_ptr e) { log.error("a connection ended by an exception: {}", e); })
        .finally([this, c, h = std::move(*holder)] {
            _by_key.erase(c->key());
            _conns.erase(c->id());
        });
}

std::optional<delivery> carrier::join(local_conn c, base::unique_fd bell, bool keep) {
    if (_gate.is_closed()) {
        return std::nullopt;
    }
    c.id = next_id();
    auto& end = c.ends[1];
    if (!end.page) {
        auto page = shm::create_end_page();
        if (!page) {
            return std::nullopt;
        }
        end.key = new_key();
        end.page = std::move(page->fd);
    }
    shm::mark_bell(bell.get(), end.key);
    delivery d;
    d.key = end.key;
    d.local = end.local;
    d.peer = end.peer;
    d.bell = std::move(bell);
    d.flags = proto::accepted_local;
    ++_count.connections_total;
    if (!keep) {
        ++_count.locals_not_kept;
        d.memory = std::move(c.memory);
        d.page = std::move(end.page);
        return d;
    }
    d.memory = duplicate(c.memory.get());
    d.page = duplicate(end.page.get());
    d.slot = _locals.add(std::move(c)).ends[1].slot;
    return d;
}

carrier::lent carrier::borrow(uint64_t key, part what) noexcept {
    std::array<int, 2> fds{-1, -1};
    unsigned end = 0;
    if (auto at = _by_key.find(key); at != _by_key.end()) {
        auto& c = *at->second;
        fds = what == part::socket ? std::array{c.tcp_fd(), -1} : std::array{c.memory_fd(), c.page_fd()};
    } else if (auto* l = _locals.find(key, end); l != nullptr) {
        fds = what == part::memory ? std::array{l->memory.get(), l->ends[end].page.get()}
                                   : std::array{end == 0 ? l->tcp.get() : -1, -1};
    }
    lent out;
    for (size_t i = 0; i < out.size(); ++i) {
        out[i] = duplicate(fds[i]);
    }
    return out;
}

std::vector<conn_info> carrier::list(uint64_t after, size_t limit) const {
    std::vector<conn_info> out;
    for (auto at = _conns.upper_bound(after); at != _conns.end() && out.size() < limit; ++at) {
        out.push_back(at->second->info());
    }
    return out;
}

uint64_t carrier::next_id() noexcept {
    return ++_ids * seastar::smp::count + seastar::this_shard_id();
}

// Random, as it is a capability; tells the shard, so that a borrower's question goes there first.
uint64_t carrier::new_key() {
    uint64_t key = 0;
    do {
        if (::getrandom(&key, sizeof key, 0) != ssize_t(sizeof key)) {
            throw std::system_error(errno, std::generic_category(), "getrandom");
        }
        key = key / seastar::smp::count * seastar::smp::count + seastar::this_shard_id();
    } while (key < seastar::smp::count || knows(key));
    return key;
}

}  // namespace vmsgr::net
