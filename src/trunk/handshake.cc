#include "trunk/handshake.hh"

#include <algorithm>

namespace vmsgr::trunk {

namespace {

hello hello_of(const session_terms& ours, uint16_t lane, below under) noexcept {
    hello h;
    h.body.node = ours.node;
    h.body.packet_bytes = ours.packet_bytes;
    h.body.outage_ms = ours.outage_ms;
    h.body.lane = lane;
    h.body.features = feature_urgent | (under == below::tls ? feature_header_crc : 0);
    ours.name.copy(h.body.name, name_bytes - 1);
    return h;
}

}  // namespace

hello_packet to_packet(const hello& h) noexcept {
    hello_packet out;
    make_hello(out, h.session, h.ack, h.body);
    return out;
}

std::expected<hello, packet_fault> to_hello(std::span<const std::byte> bytes) {
    if (bytes.size() != hello_bytes) {
        return std::unexpected(packet_fault::truncated);
    }
    header head;
    hello h;
    if (auto why = read_hello(bytes, head, h.body)) {
        return std::unexpected(*why);
    }
    h.session = head.session;
    h.ack = head.ack;
    return h;
}

hello ask(const session_terms& ours, uint16_t lane, const known_session* known, below under) noexcept {
    hello h = hello_of(ours, lane, under);
    if (known != nullptr) {
        h.session = known->session;
        h.ack = known->received;
    }
    return h;
}

answer_kind judge_answer(const hello& asked, const hello& answer) noexcept {
    const bool continues = asked.session != 0;
    if (answer.body.answer != hello_verdict::welcome) {
        const bool lost = continues && answer.body.answer == hello_verdict::unknown_session;
        return lost ? answer_kind::lost : answer_kind::refused;
    }
    if (continues) {
        return answer.session == asked.session ? answer_kind::continues : answer_kind::wrong;
    }
    const bool fits = answer.session != 0 && answer.ack == 0 && answer.body.packet_bytes <= asked.body.packet_bytes;
    return fits ? answer_kind::begins : answer_kind::wrong;
}

hello_verdict judge_request(const hello& asked, const acceptor_state& s) noexcept {
    if (s.stopping) {
        return hello_verdict::stopping;
    }
    if (asked.session != 0) {
        return s.knows_session ? hello_verdict::welcome : hello_verdict::unknown_session;
    }
    return s.has_room ? hello_verdict::welcome : hello_verdict::too_many;
}

uint32_t agreed_packet_bytes(const session_terms& ours, const hello& theirs) noexcept {
    return std::min(ours.packet_bytes, theirs.body.packet_bytes);
}

hello answer(const session_terms& ours, const hello& asked, hello_verdict verdict, const known_session* session,
             below under) noexcept {
    hello h = hello_of(ours, asked.body.lane, under);
    h.body.answer = verdict;
    h.body.packet_bytes = agreed_packet_bytes(ours, asked);
    if (session != nullptr) {
        h.session = session->session;
        h.ack = session->received;
        h.body.packet_bytes = uint32_t(session->packet_bytes);
    }
    return h;
}

engine_settings settings_of(side which, const session_terms& ours, const hello& theirs, size_t packet_bytes) noexcept {
    engine_settings s;
    s.which = which;
    s.packet_bytes = packet_bytes;
    s.replay_bytes = ours.replay_bytes;
    s.channels_max = ours.channels_max;
    s.keepalive_ms = ours.keepalive_ms;
    s.urgent = (theirs.body.features & feature_urgent) != 0;
    return s;
}

crc_cover crc_cover_of(const hello& asked, const hello& answered) noexcept {
    const bool both = (asked.body.features & answered.body.features & feature_header_crc) != 0;
    return both ? crc_cover::header : crc_cover::packet;
}

uint32_t agreed_outage_ms(const session_terms& ours, const hello& theirs) noexcept {
    return std::min(ours.outage_ms, theirs.body.outage_ms);
}

}  // namespace vmsgr::trunk
