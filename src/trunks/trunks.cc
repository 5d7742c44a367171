#include "trunks/trunks.hh"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <seastar/core/coroutine.hh>
#include <seastar/core/internal/pollable_fd.hh>
#include <seastar/core/sleep.hh>
#include <seastar/core/smp.hh>
#include <seastar/coroutine/as_future.hh>
#include <seastar/coroutine/parallel_for_each.hh>

#include "base/netns.hh"
#include "conn/kernel_socket.hh"
#include "conn/log.hh"
#include "trunks/client.hh"

namespace vmsgr::net {

namespace {

constexpr int backlog = 128;
constexpr unsigned greeting_max = 256;  // connections whose greeting or hello has not come yet
constexpr auto greeting_limit = std::chrono::seconds(3);
constexpr auto tick = std::chrono::milliseconds(100);
constexpr auto finish_limit = std::chrono::milliseconds(2000);
constexpr unsigned fds_per_link = 2;

void add(trunk::engine_counters& to, const trunk::engine_counters& c) {
    to.packets_out += c.packets_out;
    to.packets_in += c.packets_in;
    to.bytes_out += c.bytes_out;
    to.bytes_in += c.bytes_in;
    to.replayed += c.replayed;
    to.duplicates += c.duplicates;
    to.late_frames += c.late_frames;
    to.channels_total += c.channels_total;
    to.channels_reset += c.channels_reset;
    for (size_t i = 0; i < trunk::fault_kinds; ++i) {
        to.faults[i] += c.faults[i];
    }
}

uint64_t random_cookie() {
    uint64_t cookie = 0;
    while (cookie == 0) {
        if (::getrandom(&cookie, sizeof cookie, 0) != ssize_t(sizeof cookie)) {
            throw std::system_error(errno, std::generic_category(), "getrandom");
        }
    }
    return cookie;
}

}  // namespace

trunks::trunks(const conf::trunk_config& c, uint64_t node, budget& b, seastar::sharded<carrier>& carriers,
               seastar::sharded<listeners>& listeners, registry& r)
    : _config(c), _budget(b), _carriers(carriers), _listeners(listeners), _registry(r), _node(node) {
    _memory.limit = c.memory_bytes;
    _timer.set_callback([this] { on_timer(); });
}

trunks::~trunks() = default;

seastar::future<> trunks::start() {
    if (!_config.wanted()) {
        co_return;
    }
    if (_config.tls.on()) {
        co_await _tls.load(_config.tls);
    }
    base::unique_fd probe(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    _netns = base::netns_cookie(probe.get());
    if (_config.listen.family != 0 && seastar::this_shard_id() == 0) {
        listen();
        (void)accept_loop().finally([h = _gate.hold()] {});
    }
    for (auto& p : _config.peers) {
        run(std::make_unique<trunk_client>(*this, p, false));
    }
    if (_config.probe.on() && !_config.tls.on() && seastar::this_shard_id() == 0) {
        log.warn("trunk.probe without trunk.tls: whoever listens on port {} of a host that a route leads to gets the "
                 "connections of programs to that host",
                 _config.probe.port);
    }
    _timer.arm_periodic(tick);
}

seastar::future<> trunks::quiesce() {
    if (_listen_handle) {
        ::shutdown(_listen_handle.get(), SHUT_RDWR);
    }
    co_await _openings.close();
    _relays.clear();
}

seastar::future<> trunks::stop() {
    _stopping = true;
    _abort.request_abort();
    if (_listen_handle) {
        ::shutdown(_listen_handle.get(), SHUT_RDWR);
    }
    if (!_openings.is_closed()) {
        co_await _openings.close();
    }
    std::vector<session_ptr> all;
    for (auto& c : _clients) {
        c->interrupt();
        if (c->session()) {
            all.push_back(c->session());
        }
    }
    for (auto& [cookie, i] : _incoming) {
        all.push_back(i.session);
    }
    co_await seastar::coroutine::parallel_for_each(all, [](session_ptr& s) { return s->finish(finish_limit); });
    for (auto* l : _links) {
        l->shut();
    }
    co_await _gate.close();
    _timer.cancel();
    _incoming.clear();
    _clients.clear();
}

void trunks::run(std::unique_ptr<trunk_client> c) {
    _clients.push_back(std::move(c));
    (void)_clients.back()->run().finally([h = _gate.hold()] {});
}

session_ptr trunks::way_to(const base::address& destination, bool may_probe) {
    bool known = false;
    for (auto& c : _clients) {
        if (c->reaches(destination)) {
            known = true;
            if (c->session() && c->session()->up()) {
                return c->session();
            }
        }
    }
    const bool asks = may_probe && _config.probe.on() && !destination.is_loopback();
    if (!known && asks && !_stopping && !_openings.is_closed()) {
        probe(destination);
    }
    return nullptr;
}

// The probe is the first attempt of a client for just this address.
void trunks::probe(const base::address& destination) {
    auto& count = _carriers.local().count();
    if (size_t(std::ranges::count_if(_clients, &trunk_client::learnt)) >= _config.probe.peers) {
        ++count.probes_skipped;
        return;
    }
    ++count.probes;
    conf::trunk_peer p;
    p.connect = destination;
    p.connect.port = uint16_t(_config.probe.port);
    p.name = base::to_string(p.connect);
    p.addresses.push_back({destination.family, uint8_t(destination.family == AF_INET ? 32 : 128), destination.ip});
    run(std::make_unique<trunk_client>(*this, std::move(p), true));
}

std::vector<trunk_info> trunks::list() const {
    std::vector<trunk_info> out;
    for (auto& c : _clients) {
        out.push_back(c->info());
    }
    for (auto& [cookie, in] : _incoming) {
        auto& e = in.session->engine();
        trunk_info i{in.session->peer, false, seastar::this_shard_id(), in.session->lane};
        i.state = e.attached() ? "up" : "waiting";
        i.channels = e.channels();
        i.rtt_us = e.rtt_us();
        i.in_flight_bytes = e.in_flight_bytes();
        i.packet_bytes = e.settings().packet_bytes;
        i.count = *in.count;
        out.push_back(std::move(i));
    }
    if (_config.listen.family != 0) {
        trunk_info past{"(ended)", false, seastar::this_shard_id()};
        past.count = _past;
        out.push_back(std::move(past));
    }
    return out;
}

void trunks::on_timer() {
    const uint64_t now = clock_us();
    for (auto& c : _clients) {
        if (c->session()) {
            c->session()->tick(now);
        }
    }
    for (auto& [cookie, i] : _incoming) {
        i.session->tick(now);
    }
    forget_ended();
    std::erase_if(_clients, [](auto& c) { return c->forgotten(); });
    std::erase_if(_relays, [](auto& r) { return r->over(); });
}

// A session that ended is kept as long as its last connection is being left.
void trunks::forget_ended() {
    for (auto at = _incoming.begin(); at != _incoming.end();) {
        auto& s = *at->second.session;
        if (s.ended() && !s.linked()) {
            add(_past, *at->second.count);
            _graveyard.push_back(std::move(at->second));
            at = _incoming.erase(at);
        } else {
            ++at;
        }
    }
    // Wires of its channels may hold it for a while, and count.
    std::erase_if(_graveyard, [](const incoming& i) { return i.session.use_count() == 1; });
}

void trunks::listen() {
    sockaddr_storage ss{};
    socklen_t len = base::to_sockaddr(_config.listen, ss);
    base::unique_fd fd(::socket(_config.listen.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    seastar::throw_system_error_on(!fd, "socket");
    int on = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&ss), len) != 0 || ::listen(fd.get(), backlog) != 0) {
        int err = errno;
        throw std::runtime_error("trunk.listen: " + base::to_string(_config.listen) + ": " + strerror(err) +
                                 "; another daemon may have it, or it is no address of this host");
    }
    _listen_handle = duplicate(fd.get());
    _listening.emplace(seastar::file_desc::from_fd(fd.release()));
}

bool trunks::may_connect(const base::address& from) const noexcept {
    auto& allowed = _config.accept_from;
    return (allowed.empty() && _config.tls.on()) ||
           std::ranges::any_of(allowed, [&](const base::prefix& p) { return p.contains(from.unmapped()); });
}

seastar::future<> trunks::accept_loop() {
    while (!_stopping && !_openings.is_closed()) {
        auto waited = co_await seastar::coroutine::as_future(_listening->readable());
        waited.ignore_ready_future();
        base::unique_fd fd(::accept4(_listen_handle.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!fd) {
            if (errno != EAGAIN) {
                auto slept = co_await seastar::coroutine::as_future(
                    seastar::sleep_abortable(std::chrono::milliseconds(20), _abort));
                slept.ignore_ready_future();
            }
            continue;
        }
        auto from = peer_address(fd.get());
        if (!may_connect(from) || _greeting == greeting_max) {
            log.debug("a connection from {} for a trunk is refused", base::to_string(from));
            continue;
        }
        ++_greeting;
        (void)greet(std::move(fd))
            .handle_exception([](std::exception_ptr e) { log.debug("a connection for a trunk: {}", e); })
            .finally([this, h = _gate.hold()] { --_greeting; });
    }
    _listening.reset();
}

// Reads which lane it is, then it goes to that lane's shard.
seastar::future<> trunks::greet(base::unique_fd fd) {
    base::unique_fd handle = duplicate(fd.get());
    seastar::pollable_fd pollable(seastar::file_desc::from_fd(fd.release()));
    seastar::timer<seastar::lowres_clock> limit([&] { ::shutdown(handle.get(), SHUT_RDWR); });
    limit.arm(greeting_limit);
    std::byte bytes[trunk::greeting_bytes];
    size_t have = 0;
    while (have < sizeof bytes) {
        size_t n = co_await pollable.read_some(reinterpret_cast<char*>(bytes) + have, sizeof bytes - have);
        if (n == 0) {
            break;
        }
        have += n;
    }
    limit.cancel();
    pollable.close();
    uint16_t lane = 0;
    if (auto why = trunk::get_greeting(std::span(bytes).first(have), lane)) {
        ++_past.faults[size_t(*why)];
        co_return;
    }
    auto fds = lease::take(_budget.fds, fds_per_link);
    if (!fds) {
        co_return;
    }
    auto task = [fd = std::move(handle), fds = std::move(*fds), lane](trunks& t) mutable {
        auto h = t._gate.try_hold();
        if (h) {
            (void)t.serve(std::move(fd), std::move(fds), lane).finally([h = std::move(*h)] {});
        }
    };
    co_await container().invoke_on(lane % seastar::smp::count, std::move(task));
}

seastar::future<> trunks::serve(base::unique_fd fd, [[maybe_unused]] lease fds, uint16_t lane) {
    const base::address from = peer_address(fd.get());
    trunk_link link;
    _links.push_back(&link);
    seastar::timer<seastar::lowres_clock> limit([&] { link.shut(); });
    limit.arm(greeting_limit);
    auto started = co_await seastar::coroutine::as_future(link.start(std::move(fd), _tls, false));
    bool fine = !started.failed();
    if (fine) {
        auto asked = co_await seastar::coroutine::as_future(answer(link, lane));
        limit.cancel();
        if (asked.failed()) {
            log.debug("a connection from {} for a trunk: {}", base::to_string(from), asked.get_exception());
        } else if (auto session = asked.get()) {
            co_await session->carry(link, session->hello_ack);
        } else {
            limit.arm(greeting_limit);
            co_await link.finish_output();  // the refusal
            limit.cancel();
        }
    } else {
        log.warn("a connection from {} for a trunk is refused: {}", base::to_string(from), started.get_exception());
    }
    std::erase(_links, &link);
    link.shut();
    if (fine) {
        co_await link.close();
    }
}

// Reads the hello and answers it. Null: refused.
seastar::future<session_ptr> trunks::answer(trunk_link& link, uint16_t lane) {
    std::byte packet[trunk::hello_bytes];
    size_t n = co_await link.receive(packet);
    trunk::header h;
    trunk::hello_body theirs, mine;
    auto why = n == sizeof packet ? trunk::read_hello(packet, h, theirs) : std::optional(trunk::fault::truncated);
    if (!why && theirs.lane != lane) {
        why = trunk::fault::channel;
    }
    if (why) {
        ++_past.faults[size_t(*why)];
        co_return nullptr;
    }
    session_ptr session;
    mine.node = _node;
    mine.lane = lane;
    mine.packet_bytes = std::min(theirs.packet_bytes, _config.packet_bytes);
    mine.outage_ms = _config.outage_ms;
    strncpy(mine.name, _config.name.c_str(), trunk::name_bytes - 1);
    if (_stopping || _openings.is_closed()) {
        mine.answer = trunk::verdict::stopping;
    } else if (h.session != 0) {
        auto at = _incoming.find(h.session);
        if (at != _incoming.end() && !at->second.session->ended()) {
            session = at->second.session;
            co_await session->drop_link();
        }
        if (!session || session->ended()) {
            mine.answer = trunk::verdict::unknown_session;
            ++_past.faults[size_t(trunk::fault::cookie)];
            session = nullptr;
        }
    } else if (_incoming.size() >= _config.sessions) {
        mine.answer = trunk::verdict::too_many;
    } else {
        session = make_incoming(theirs, mine.packet_bytes);
    }
    if (session) {
        mine.packet_bytes = uint32_t(session->engine().settings().packet_bytes);
        session->hello_ack = h.ack;
    }
    trunk::make_hello(packet, session ? session->cookie() : 0, session ? session->engine().received() : 0, mine);
    co_await link.send(packet);
    co_return session;
}

session_ptr trunks::make_incoming(const trunk::hello_body& hello, size_t packet_bytes) {
    // The same lane of the same daemon: it has restarted, and nobody goes on with what it had.
    for (auto& [cookie, i] : _incoming) {
        if (i.session->node == hello.node && i.session->lane == hello.lane && !i.session->ended()) {
            log.info("trunk from {}: a new session takes the place of an older one", hello.name);
            i.session->end(ECONNRESET);
        }
    }
    forget_ended();
    trunk::engine_settings s;
    s.which = trunk::side::acceptor;
    s.packet_bytes = packet_bytes;
    s.replay_bytes = _config.replay_bytes;
    s.channels_max = _config.channels;
    s.keepalive_ms = _config.keepalive_ms;
    auto count = std::make_unique<trunk::engine_counters>();
    auto open = [this](trunk_session& session, uint64_t channel, const base::address& source,
                       const base::address& destination) { return on_open(session, channel, source, destination); };
    auto session = seastar::make_lw_shared<trunk_session>(random_cookie(), hello.name, hello.node, hello.lane,
                                                          std::min(hello.outage_ms, _config.outage_ms), s, _memory,
                                                          *count, open);
    _incoming.emplace(session->cookie(), incoming{session, std::move(count)});
    log.info("trunk from {}: session of lane {} begins, packets of {} bytes", hello.name, hello.lane, packet_bytes);
    return session;
}

}  // namespace vmsgr::net
