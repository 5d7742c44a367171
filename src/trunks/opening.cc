// A peer has opened a channel: who gets it?
#include <errno.h>
#include <sys/socket.h>

#include <seastar/core/coroutine.hh>
#include <seastar/core/sleep.hh>
#include <seastar/core/smp.hh>
#include <seastar/coroutine/as_future.hh>

#include "base/sockets.hh"
#include "conn/log.hh"
#include "trunks/trunks.hh"

namespace vmsgr::net {

namespace {

// Between two looks at a queue that is full; the kernel gives a connect up after about as long.
constexpr auto first_pause = std::chrono::milliseconds(10);
constexpr auto longest_pause = std::chrono::milliseconds(200);
constexpr auto full_queue_limit = std::chrono::seconds(130);

}  // namespace

// Addresses that peers may reach here.
bool trunks::serves(const base::address& destination) const noexcept {
    if (_config.serves.empty()) {
        return !destination.is_loopback();
    }
    return std::ranges::any_of(_config.serves, [&](const base::prefix& p) { return p.contains(destination); });
}

trunk::channel_sink* trunks::on_open(trunk_session& s, uint64_t channel, const base::address& source,
                                     const base::address& destination) {
    auto holder = _openings.try_hold();
    if (!holder || !serves(destination)) {
        s.engine().refuse(channel, EHOSTUNREACH);
        return nullptr;
    }
    auto w = trunk_far::opened(s.shared_from_this(), channel, _carriers.local().settings().ring_bytes, destination,
                                source);
    auto* sink = w.get();
    (void)open_here(std::move(w), destination)
        .handle_exception([](std::exception_ptr e) { log.warn("a channel of a trunk is refused: {}", e); })
        .finally([h = std::move(*holder)] {});
    return sink;
}

// No attached program listens there: whoever does is reached by TCP, from this host.
void trunks::relay(std::unique_ptr<trunk_far> w, const base::address& destination) {
    auto place = lease::take(_budget.connections);
    auto fds = lease::take(_budget.fds, 1);
    if (!place || !fds || !base::is_own_address(destination)) {
        w->refuse(EHOSTUNREACH);
        return;
    }
    base::unique_fd socket(::socket(destination.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    int err = socket ? begin_connect(socket.get(), destination) : EHOSTUNREACH;
    if (err != 0) {
        w->refuse(err);
        return;
    }
    auto r = std::make_unique<trunk_relay>(std::move(socket), std::move(w), std::move(*place), std::move(*fds));
    if (r->start(_carriers.local().events())) {
        _relays.push_back(std::move(r));
    }
}

seastar::future<> trunks::open_here(std::unique_ptr<trunk_far> w, base::address destination) {
    auto found = _registry.find(_netns, destination);
    if (found.id == 0) {
        relay(std::move(w), destination);
        co_return;
    }
    auto place = co_await _listeners.invoke_on(found.shard, [id = found.id](listeners& l) { return l.reserve(id); });
    if (w->gone()) {
        co_return;
    }
    base::unique_fd options(::socket(found.v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!place.place || !options) {
        w->refuse(!options || place.no_room ? EHOSTUNREACH : ECONNREFUSED);
        co_return;
    }
    if (found.v6) {
        w->show_mapped();
    }
    const auto wire = w->weak_from_this();
    bring_request r{std::move(options), std::move(*place.place), std::move(place.route), std::move(place.door),
                    std::move(w)};
    brought how = brought::queue_full;
    // A full queue makes a connect wait and try again, as TCP does.
    const auto until = std::chrono::steady_clock::now() + full_queue_limit;
    for (auto pause = first_pause; how == brought::queue_full; pause = std::min(2 * pause, longest_pause)) {
        how = _carriers.local().bring(r, _budget.fds);
        if (how == brought::queue_full) {
            if (!wire || wire->gone()) {
                co_return;
            }
            if (_openings.is_closed() || std::chrono::steady_clock::now() > until) {
                wire->refuse(ETIMEDOUT);
                co_return;
            }
            co_await seastar::sleep(pause);
        }
    }
    if (!wire) {
        co_return;
    }
    // Accepted only now, so that who connects twice is accepted in that order, whatever lanes the two came by.
    how == brought::yes ? wire->accept() : wire->refuse(ECONNREFUSED);
}

}  // namespace vmsgr::net
