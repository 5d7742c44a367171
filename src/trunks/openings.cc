#include "trunks/openings.hh"

#include <errno.h>
#include <sys/socket.h>

#include <seastar/core/coroutine.hh>
#include <seastar/core/sleep.hh>

#include "base/source.hh"
#include "conn/kernel_socket.hh"
#include "ssx/spawn.hh"
#include "trunks/log.hh"

namespace vmsgr::trunks {

namespace {

// Between two looks at a queue that is full; the kernel gives a connect up after about as long.
constexpr auto first_pause = std::chrono::milliseconds(10);
constexpr auto longest_pause = std::chrono::milliseconds(200);
constexpr auto full_queue_limit = std::chrono::seconds(130);

}  // namespace

seastar::future<> openings::close() {
    if (!_gate.is_closed()) {
        co_await _gate.close();
    }
    _relays.clear();
}

void openings::tick() noexcept {
    std::erase_if(_relays, [](auto& r) { return r->over(); });
}

// Addresses that peers may reach here: the host's own, and never loopback, whose services trust whoever can reach it.
// The engine has refused what names no one host.
bool openings::serves(const base::address& destination) const noexcept {
    auto& served = _env.config.serves;
    const bool listed =
        served.empty() || std::ranges::any_of(served, [&](const base::prefix& p) { return p.contains(destination); });
    return listed && !destination.is_loopback() && base::is_own_address(destination);
}

trunk::channel_sink* openings::on_open(trunk_session& s, uint64_t channel, const base::address& source,
                                       const base::address& destination) {
    if (_gate.is_closed() || !serves(destination)) {
        s.engine().refuse(channel, EHOSTUNREACH);
        return nullptr;
    }
    auto w = trunk_wire::opened(s.shared_from_this(), channel, _env.carriers.local().settings().ring_bytes,
                                destination, source);
    auto* sink = w.get();
    ssx::spawn(_gate, log, "a channel that a peer opened", [this, w = std::move(w), destination]() mutable {
        return open(std::move(w), destination);
    });
    return sink;
}

seastar::future<> openings::open(std::unique_ptr<trunk_wire> w, base::address destination) {
    const auto found = _env.registry.find(_env.netns, destination);
    if (found.key == 0) {
        relay(std::move(w), destination);
        co_return;
    }
    if (auto place = co_await reserve(*w, found)) {
        co_await deliver(std::move(w), found, std::move(*place));
    }
}

// No attached program listens there: whoever does is reached by TCP, from this host.
void openings::relay(std::unique_ptr<trunk_wire> w, const base::address& destination) {
    auto place = net::lease::take(_env.budget.connections);
    auto fds = net::lease::take(_env.budget.fds, 1);
    if (!place || !fds) {
        w->refuse(EHOSTUNREACH);
        return;
    }
    base::unique_fd socket(::socket(destination.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    int err = socket ? net::begin_connect(socket.get(), destination) : EHOSTUNREACH;
    if (err != 0) {
        w->refuse(err);
        return;
    }
    auto r = std::make_unique<trunk_relay>(std::move(socket), std::move(w), std::move(*place), std::move(*fds));
    if (r->start(_env.carriers.local().events())) {
        _relays.push_back(std::move(r));
    }
}

// A full queue makes a connect wait and try again, as TCP does.
seastar::future<std::optional<net::listener::reserved>> openings::reserve(trunk_wire& w, net::registry::found at) {
    const auto until = std::chrono::steady_clock::now() + full_queue_limit;
    for (auto pause = first_pause;; pause = std::min(2 * pause, longest_pause)) {
        auto place = co_await _env.listeners.invoke_on(
            at.shard, [key = at.key](net::listener& l) { return l.reserve(key); });
        if (w.gone()) {
            co_return std::nullopt;
        }
        if (place.place) {
            co_return std::move(place);
        }
        if (!place.queue_full) {
            w.refuse(place.no_room ? EHOSTUNREACH : ECONNREFUSED);
            co_return std::nullopt;
        }
        if (_gate.is_closed() || std::chrono::steady_clock::now() > until) {
            w.refuse(ETIMEDOUT);
            co_return std::nullopt;
        }
        co_await seastar::sleep(pause);
    }
}

seastar::future<> openings::deliver(std::unique_ptr<trunk_wire> w, net::registry::found at,
                                    net::listener::reserved place) {
    base::unique_fd options(::socket(at.v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!options) {
        w->refuse(EHOSTUNREACH);
        co_return;
    }
    if (at.v6) {
        w->show_mapped();
    }
    auto wire = w->weak_from_this();
    auto d = _env.carriers.local().accept(std::move(options), std::move(*place.place), std::move(place.route),
                                          std::move(w));
    if (!d) {
        co_return;
    }
    co_await _env.listeners.invoke_on(at.shard, [key = at.key, d = std::move(*d)](net::listener& l) mutable {
        l.deliver(key, std::move(d));
    });
    // Only now, so that who connects twice is accepted in that order, whatever lanes the two came by.
    if (wire) {
        wire->accept();
    }
}

}  // namespace vmsgr::trunks
