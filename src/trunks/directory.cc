#include "trunks/directory.hh"

#include <errno.h>

#include <seastar/core/coroutine.hh>
#include <seastar/core/smp.hh>
#include <seastar/coroutine/parallel_for_each.hh>

#include "base/random.hh"
#include "conf/config.hh"
#include "ssx/spawn.hh"
#include "trunks/log.hh"

namespace vmsgr::trunks {

namespace {

// One for each shard that a daemon may have.
constexpr auto bye_time = std::chrono::milliseconds(100);
constexpr auto sessions_per_peer_max = std::ptrdiff_t(conf::shards_max);

}  // namespace

directory::directory(environment& env, openings& o) : _env(env), _openings(o) {}

directory::~directory() = default;

void directory::start() {
    _probes = _env.config.probe.on();
    for (auto& c : _clients) {
        run(*c);  // of another worker
    }
    change_peers();
    if (_probes && !_env.config.tls.on() && seastar::this_shard_id() == 0) {
        log.warn("trunk.probe without trunk.tls: whoever listens on port {} of a host that a route leads to gets the "
                 "connections of programs to that host",
                 _env.config.probe.port);
    }
}

void directory::change_peers() {
    _probes = _env.config.probe.on();
    for (auto& c : _clients) {
        auto& peers = _env.config.peers;
        const auto now = std::ranges::find_if(peers, [&](const conf::trunk_peer& p) { return c->is_to(p); });
        if (now != peers.end()) {
            c->change(*now);
        } else if (!c->learnt()) {
            c->retire();
        }
    }
    for (auto& p : _env.config.peers) {
        const bool runs = std::ranges::any_of(_clients, [&](auto& c) { return c->is_to(p); });
        if (p.connect.family != 0 && !runs) {
            run(p, false);
        }
    }
}

seastar::future<> directory::finish(std::chrono::milliseconds limit) {
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
    co_await seastar::coroutine::parallel_for_each(all, [limit](session_ptr& s) { return s->finish(limit); });
}

void directory::clear() noexcept {
    _incoming.clear();
    _clients.clear();
}

void directory::tick() {
    const uint64_t now = clock_us();
    for (auto& c : _clients) {
        if (c->session()) {
            c->session()->tick(now);
        }
        if (c->retired() && c->session() && c->unused() && !c->session()->ended()) {
            ssx::spawn(_env.fibers, log, "the end of a trunk", [s = c->session()] { return s->finish(bye_time); });
        }
    }
    for (auto& [cookie, i] : _incoming) {
        i.session->tick(now);
    }
    forget_ended();
    serve_waiting();
    std::erase_if(_clients, [](auto& c) { return c->forgotten(); });
}

// --- outgoing ---------------------------------------------------------------------------------------------------

void directory::run(conf::trunk_peer peer, bool learnt) {
    run(*_clients.emplace_back(std::make_unique<client>(_env, std::move(peer), learnt)));
}

void directory::run(client& c) {
    ssx::spawn_for_good(_env.fibers, log, "the lane to a peer", [&c] { return c.run(); });
}

session_ptr directory::way_to(const base::address& destination, bool may_probe) {
    if (!destination.names_one_host()) {
        return nullptr;
    }
    bool known = false;
    for (auto& c : _clients) {
        if (c->reaches(destination)) {
            known = true;
            if (c->session() && c->session()->up()) {
                return c->session();
            }
        }
    }
    if (!known && may_probe && _probes && !destination.is_loopback()) {
        probe(destination);
    }
    return nullptr;
}

bool directory::may_come(const base::address& destination) const noexcept {
    return std::ranges::any_of(_clients, [&](auto& c) { return c->reaches(destination) && !c->absent(); });
}

void directory::wait(trunk_far& far) { _waiting.emplace_back(far); }

void directory::serve_waiting() {
    const auto now = seastar::lowres_clock::now();
    std::erase_if(_waiting, [&](waiting& w) {
        if (!w.far || !w.far->waits()) {
            return true;
        }
        const auto destination = w.far->peer().unmapped();
        if (auto session = way_to(destination, false); session && w.far->begin(std::move(session))) {
            return true;
        }
        const int err = now >= w.until ? ETIMEDOUT : may_come(destination) ? 0 : EHOSTUNREACH;
        if (err != 0) {
            count(trunk::refusal::no_trunk, destination);
            w.far->give_up(err);
        }
        return err != 0;
    });
}

void directory::count(trunk::refusal r, const base::address& destination) noexcept {
    const auto at = std::ranges::find_if(_clients, [&](auto& c) { return c->reaches(destination); });
    at != _clients.end() ? (*at)->count(r) : count(r);
}

// The probe is the first attempt of a client for just this address.
void directory::probe(const base::address& destination) {
    auto& count = _env.carriers.local().count();
    if (size_t(std::ranges::count_if(_clients, &client::learnt)) >= _env.config.probe.peers) {
        ++count.probes_skipped;
        return;
    }
    ++count.probes;
    conf::trunk_peer p;
    p.connect = destination;
    p.connect.port = uint16_t(_env.config.probe.port);
    p.name = base::to_string(p.connect);
    p.addresses.push_back(conf::whole(destination));
    run(std::move(p), true);
}

// --- incoming ---------------------------------------------------------------------------------------------------

session_ptr directory::find(uint64_t cookie, const peer_proof& who) const noexcept {
    auto at = _incoming.find(cookie);
    const bool theirs = at != _incoming.end() && !at->second.session->ended() &&
                        at->second.session->who.proof.identity == who.identity;
    return theirs ? at->second.session : nullptr;
}

bool directory::has_room(const peer_proof& who) const noexcept {
    const auto theirs = std::ranges::count_if(
        _incoming, [&](auto& i) { return i.second.session->who.proof.identity == who.identity; });
    return _incoming.size() < _env.config.sessions && theirs < sessions_per_peer_max;
}

void directory::renew_links() noexcept {
    for (auto& c : _clients) {
        if (c->session()) {
            c->session()->break_link();
        }
    }
    for (auto& [cookie, i] : _incoming) {
        i.session->break_link();
    }
}

session_ptr directory::begin(const trunk::hello& hello, const peer_proof& proof, peer_share share) {
    // With TLS it has the name that it has proved, not the one that it gives itself.
    const trunk_session::identity who{proof.secured ? proof.identity : hello.body.name, proof, hello.body.node,
                                      hello.body.lane, std::move(share)};
    // The same lane of the same daemon: it has restarted, and nobody goes on with what it had.
    for (auto& [cookie, i] : _incoming) {
        auto& old = i.session->who;
        if (old.node == who.node && old.lane == who.lane && old.proof.identity == proof.identity &&
            !i.session->ended()) {
            log.info("trunk from {}: a new session takes the place of an older one", who.peer);
            i.session->end(ECONNRESET);
        }
    }
    forget_ended();
    kept_session s;
    s.cookie = base::random_u64_nonzero();
    s.who = who;
    s.outage_ms = trunk::agreed_outage_ms(_env.terms, hello);
    s.settings = trunk::settings_of(trunk::side::acceptor, _env.terms, hello,
                                    trunk::agreed_packet_bytes(_env.terms, hello));
    log.info("trunk from {}: session of lane {} begins, packets of {} bytes", who.peer, who.lane,
             s.settings.packet_bytes);
    return add_incoming(s);
}

// Null: it is of another worker, and its engine cannot be read.
session_ptr directory::add_incoming(const kept_session& s) {
    auto count = std::make_unique<trunk::engine_counters>();
    auto refused = std::make_unique<trunk::refusals>();
    auto open = [this, counts = refused.get()](trunk_session& session, uint64_t channel, const base::address& source,
                                               const base::address& destination) {
        return _openings.on_open(session, *counts, channel, source, destination);
    };
    auto session = s.make(_env.memory, *count, open);
    if (session) {
        _incoming.emplace(s.cookie, incoming{session, std::move(count), std::move(refused)});
    }
    return session;
}

// A session that ended is kept as long as its last connection is being left.
void directory::forget_ended() {
    for (auto at = _incoming.begin(); at != _incoming.end();) {
        auto& s = *at->second.session;
        if (s.ended() && !s.linked()) {
            base::add(_past, *at->second.count, trunk::engine_counter_table);
            _past_refused.add(*at->second.refused);
            _graveyard.push_back(std::move(at->second));
            at = _incoming.erase(at);
        } else {
            ++at;
        }
    }
    // Wires of its channels may hold it for a while, and count.
    std::erase_if(_graveyard, [](const incoming& i) { return i.session.use_count() == 1; });
}

std::vector<session_info> directory::list() const {
    std::vector<session_info> out;
    for (auto& c : _clients) {
        out.push_back(c->info());
    }
    for (auto& [cookie, in] : _incoming) {
        session_info i{in.session->who.peer, false, seastar::this_shard_id(), in.session->who.lane};
        i.add(*in.session);
        i.count = *in.count;
        i.refused = *in.refused;
        out.push_back(std::move(i));
    }
    if (_env.config.wanted()) {
        session_info past{"(ended)", false, seastar::this_shard_id()};
        past.count = _past;
        past.refused = _past_refused;
        out.push_back(std::move(past));
    }
    return out;
}

}  // namespace vmsgr::trunks
