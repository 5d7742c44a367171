// From one worker to the next: see trunks/kept.hh.
#include <seastar/core/coroutine.hh>

#include "trunks/directory.hh"
#include "trunks/log.hh"

namespace vmsgr::trunks {

template <typename F>
void directory::for_each_session(F what) {
    for (auto& c : _clients) {
        if (c->session() && !c->session()->ended()) {
            what(*c->session(), c.get());
        }
    }
    for (auto& [cookie, in] : _incoming) {
        if (!in.session->ended()) {
            what(*in.session, nullptr);
        }
    }
}

void directory::freeze() noexcept {
    _probes = false;
    for_each_session([](trunk_session& s, const client*) { s.freeze(); });
}

void directory::save(base::record_writer& to) {
    uint64_t count = 0;
    for_each_session([&count](trunk_session&, const client*) { ++count; });
    to.put(count);
    for_each_session([&to](trunk_session& s, const client* c) {
        to.put(uint8_t(c != nullptr));
        if (c != nullptr) {
            to.put(uint8_t(c->learnt()));
            to.put_text(c->peer().name);
            to.put(c->peer().connect);
        }
        trunks::save(to, s);
    });
}

seastar::future<bool> directory::load(base::record_reader& from) {
    for (auto left = from.get<uint64_t>(); left > 0 && from.complete(); --left) {
        const bool outgoing = from.get<uint8_t>() != 0;
        const bool learnt = outgoing && from.get<uint8_t>() != 0;
        conf::trunk_peer peer;
        if (outgoing) {
            peer.name = from.get_text();
            peer.connect = from.get<base::address>();
        }
        auto s = read_session(from);
        if (!from.complete()) {
            break;
        }
        if (outgoing) {
            if (learnt) {
                peer.addresses.push_back(conf::whole(peer.connect));
            }
            auto& c = _clients.emplace_back(std::make_unique<client>(_env, std::move(peer), learnt));
            c->go_on(s);
        } else {
            s.who.share = co_await _env.share_of(s.who.proof.identity);
            if (!add_incoming(s)) {
                log.warn("trunk from {}: what the worker before has left of it cannot be read; its channels are reset",
                         s.who.peer);
            }
        }
    }
    co_return from.complete();
}

std::unique_ptr<trunk_far> directory::claim(conn::channel_name which, uint64_t window, const base::address& local,
                                            const base::address& peer) {
    session_ptr of;
    for_each_session([&](trunk_session& s, const client*) {
        if (s.cookie() == which.session) {
            of = s.shared_from_this();
        }
    });
    return of ? trunk_far::going_on(std::move(of), which.channel, window, local, peer) : nullptr;
}

void directory::go_on() noexcept {
    for_each_session([](trunk_session& s, const client*) {
        if (const size_t ended = s.engine().go_on(); ended != 0) {
            log.warn("trunk {}: {} channels are reset: the worker before was not ready to hand them over", s.who.peer,
                     ended);
        }
    });
}

}  // namespace vmsgr::trunks
