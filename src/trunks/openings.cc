#include "trunks/openings.hh"

#include <errno.h>
#include <sys/socket.h>

#include <seastar/core/coroutine.hh>
#include <seastar/core/memory.hh>
#include <seastar/core/sleep.hh>

#include "base/source.hh"
#include "conf/peer_rights.hh"
#include "conn/kernel_socket.hh"
#include "ssx/reserve.hh"
#include "ssx/spawn.hh"
#include "trunks/log.hh"

namespace vmsgr::trunks {

namespace {

// Between two looks at a queue that is full.
constexpr auto first_pause = std::chrono::milliseconds(10);
constexpr auto longest_pause = std::chrono::milliseconds(200);

// Of a shard's memory, what relays may keep; their buffers may take twice that while they grow.
constexpr uint64_t relay_part = 8;

void say_refused(const std::string& peer, const base::address& from, const base::address& to, trunk::refusal why) {
    static thread_local seastar::logger::rate_limit rate(std::chrono::seconds(1));
    log.log(seastar::log_level::warn, rate, "trunk {}: a connection from {} to {} is refused for its {}", peer,
            base::to_string(from), base::to_string(to), to_text(why));
}

}  // namespace

openings::openings(environment& env) noexcept
    : _env(env), _relay_memory(seastar::memory::stats().total_memory() / relay_part) {}

seastar::future<> openings::close() {
    if (!_gate.is_closed()) {
        co_await _gate.close();
    }
    _relays.clear();
}

void openings::tick() noexcept {
    std::erase_if(_relays, [](auto& r) { return r->over(); });
}

// What peers reach are this host's own addresses. A source is believed as far as the configuration says, and is never
// one of this host, whose programs may trust each other more.
std::optional<trunk::refusal> openings::judge(const peer_proof& who, const base::address& source,
                                              const base::address& destination) const noexcept {
    const conf::peer_identity peer{who.names, who.from, who.secured};
    if (!conf::may_reach(_env.config, peer, destination) || !base::is_own_address(destination)) {
        return trunk::refusal::destination;
    }
    if (!conf::may_claim(_env.config, peer, source) || base::is_own_address(source)) {
        return trunk::refusal::source;
    }
    return std::nullopt;
}

trunk::channel_sink* openings::on_open(trunk_session& s, trunk::refusals& count, uint64_t channel,
                                       const base::address& source, const base::address& destination) {
    auto why = judge(s.who.proof, source, destination);
    if (!why && ssx::is_short_of_memory()) {
        why = trunk::refusal::memory;
    }
    auto place = why ? std::nullopt : conn::lease::take(*s.who.share);
    if (!why && !place) {
        why = trunk::refusal::connections;
    }
    if (why) {
        count.count(*why);
        say_refused(s.who.peer, source, destination, *why);
    }
    if (why || _gate.is_closed() || _refuses_all) {
        s.engine().refuse(channel, EHOSTUNREACH);
        return nullptr;
    }
    auto w = trunk_far::opened(s.shared_from_this(), channel, _env.carriers.local().settings().ring_bytes, destination,
                               source, std::move(*place));
    auto* sink = w.get();
    ssx::spawn(_gate, log, "a channel that a peer opened", [this, w = std::move(w), destination, &count]() mutable {
        return open(std::move(w), destination, count);
    });
    return sink;
}

seastar::future<> openings::open(std::unique_ptr<trunk_far> w, base::address destination, trunk::refusals& count) {
    const auto found = _env.registry.find(_env.netns, destination);
    if (found.id == 0) {
        relay(std::move(w), destination, count);
        co_return;
    }
    co_await deliver(std::move(w), found);
}

// No attached program listens there: whoever does is reached by TCP, from this host.
void openings::relay(std::unique_ptr<trunk_far> w, const base::address& destination, trunk::refusals& count) {
    auto place = conn::lease::take(_env.budget.connections);
    auto fds = conn::lease::take(_env.budget.fds, 1);
    if (!place || !fds) {
        w->refuse(EHOSTUNREACH);
        return;
    }
    auto memory = take_memory(*w);
    if (!memory) {
        count.count(trunk::refusal::memory);
        say_refused(w->peer_identity(), w->peer(), destination, trunk::refusal::memory);
        w->refuse(EHOSTUNREACH);
        return;
    }
    base::unique_fd socket(::socket(destination.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    int err = socket ? conn::begin_connect(socket.get(), destination) : EHOSTUNREACH;
    if (err != 0) {
        w->refuse(err);
        return;
    }
    auto begun = trunk_relay::begin(*memory, *w);
    auto r = std::make_unique<trunk_relay>(std::move(socket), std::move(w), std::move(*place), std::move(*fds),
                                           std::move(*memory), std::move(begun));
    if (r->start(_env.carriers.local().events())) {
        _relays.push_back(std::move(r));
    }
}

seastar::future<> openings::deliver(std::unique_ptr<trunk_far> w, local::registry::found at) {
    auto place = co_await _env.listeners.invoke_on(at.shard,
                                                   [id = at.id](local::listeners& l) { return l.reserve(id); });
    if (w->gone()) {
        co_return;
    }
    base::unique_fd options(::socket(at.v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!place.place || !options) {
        w->refuse(!options || place.no_room ? EHOSTUNREACH : ECONNREFUSED);
        co_return;
    }
    if (at.v6) {
        w->show_mapped();
    }
    const auto far = w->weak_from_this();
    conn::bring_request r{.tcp = std::move(options),
                          .place = std::move(*place.place),
                          .route = std::move(place.route),
                          .door = std::move(place.door),
                          .far = std::move(w)};
    // Accepted only once it is in the queue, so that who connects twice is accepted in that order, whatever lanes the
    // two came by.
    const auto how = co_await bring(r, far);
    if (far && how != conn::brought::queue_full) {
        how == conn::brought::yes ? far->accept() : far->refuse(ECONNREFUSED);
    }
}

// A full queue makes a connect wait and try again, as TCP does. queue_full: it has been answered, or the peer is gone.
seastar::future<conn::brought> openings::bring(conn::bring_request& r, seastar::weak_ptr<trunk_far> far) {
    const auto until = std::chrono::steady_clock::now() + connect_limit;
    for (auto pause = first_pause;; pause = std::min(2 * pause, longest_pause)) {
        const auto how = _env.carriers.local().bring(r, _env.budget);
        if (how != conn::brought::queue_full || !far || far->gone()) {
            co_return how;
        }
        if (_gate.is_closed() || std::chrono::steady_clock::now() > until) {
            far->refuse(ETIMEDOUT);
            co_return how;
        }
        co_await seastar::sleep(pause);
    }
}

}  // namespace vmsgr::trunks
