#include "trunks/kept.hh"

namespace vmsgr::trunks {

namespace {

void put(base::record_writer& to, const trunk::engine_settings& s) {
    to.put(uint8_t(s.which));
    to.put(uint64_t(s.packet_bytes));
    to.put(s.replay_bytes);
    to.put(s.channels_max);
    to.put(s.keepalive_ms);
    to.put(uint8_t(s.urgent));
}

trunk::engine_settings get_settings(base::record_reader& from) {
    trunk::engine_settings s;
    s.which = from.get<uint8_t>() == uint8_t(trunk::side::acceptor) ? trunk::side::acceptor : trunk::side::initiator;
    s.packet_bytes = size_t(from.get<uint64_t>());
    s.replay_bytes = from.get<uint64_t>();
    s.channels_max = from.get<uint64_t>();
    s.keepalive_ms = from.get<uint32_t>();
    s.urgent = from.get<uint8_t>() != 0;
    return s;
}

void put(base::record_writer& to, const trunk_session::identity& who) {
    to.put_text(who.peer);
    to.put(uint8_t(who.proof.secured));
    to.put(uint64_t(who.proof.names.size()));
    for (auto& name : who.proof.names) {
        to.put_text(name);
    }
    to.put(who.proof.from);
    to.put_text(who.proof.identity);
    to.put(who.node);
    to.put(who.lane);
}

trunk_session::identity get_identity(base::record_reader& from) {
    trunk_session::identity who;
    who.peer = from.get_text();
    who.proof.secured = from.get<uint8_t>() != 0;
    for (auto left = from.get<uint64_t>(); left > 0 && from.complete(); --left) {
        who.proof.names.push_back(from.get_text());
    }
    who.proof.from = from.get<base::address>();
    who.proof.identity = from.get_text();
    who.node = from.get<uint64_t>();
    who.lane = from.get<uint16_t>();
    return who;
}

}  // namespace

void save(base::record_writer& to, trunk_session& s) {
    base::record_writer engine;
    s.engine().save(engine);
    to.put(s.cookie());
    put(to, s.who);
    to.put(s.outage_ms());
    put(to, s.engine().settings());
    to.put_bytes(engine.bytes());
}

kept_session read_session(base::record_reader& from) {
    kept_session s;
    s.cookie = from.get<uint64_t>();
    s.who = get_identity(from);
    s.outage_ms = from.get<uint32_t>();
    s.settings = get_settings(from);
    s.engine = from.get_bytes();
    return s;
}

void save(base::record_writer& to, const kept_relay& r) {
    to.put(r.which.session);
    to.put(r.which.channel);
    to.put(r.local);
    to.put(r.peer);
    to.put(r.life.save());
    to.put(r.window);
    to.put(r.taken);
    for (auto* w : {&r.to_server, &r.to_channel}) {
        to.put_bytes(w->bytes);
        to.put(w->urgent_end);
    }
}

std::optional<kept_relay> read_relay(base::record_reader& from) {
    kept_relay r;
    r.which.session = from.get<uint64_t>();
    r.which.channel = from.get<uint64_t>();
    r.local = from.get<base::address>();
    r.peer = from.get<base::address>();
    const auto saved = from.get<life::connection::saved>();
    r.window = from.get<uint64_t>();
    r.taken = from.get<uint64_t>();
    for (auto* w : {&r.to_server, &r.to_channel}) {
        const auto bytes = from.get_bytes();
        w->bytes.assign(bytes.begin(), bytes.end());
        w->urgent_end = from.get<uint64_t>();
    }
    const auto life = life::connection::restore(saved);
    if (!from.complete() || !life) {
        return std::nullopt;
    }
    r.life = *life;
    return r;
}

session_ptr kept_session::make(trunk::memory_share& share, trunk::engine_counters& count,
                               trunk_session::opener on_open) const {
    if (!trunk::valid_packet_bytes(settings.packet_bytes)) {
        return nullptr;
    }
    auto made = seastar::make_lw_shared<trunk_session>(cookie, who, outage_ms, settings, share, count,
                                                       std::move(on_open));
    if (engine.empty()) {
        return made;
    }
    base::record_reader from(engine);
    return made->engine().load(from) ? made : nullptr;
}

}  // namespace vmsgr::trunks
