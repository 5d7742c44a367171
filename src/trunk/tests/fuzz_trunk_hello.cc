// The first bytes of a trunk's connection, from either side: the greeting, a hello, and what each makes of the other's.
#include <string.h>

#include <vector>

#include "base/tests/fuzz_input.hh"
#include "trunk/handshake.hh"

namespace {

using namespace vmsgr;
using namespace vmsgr::trunk;
using fuzz::must;

const session_terms ours{.node = 1,
                         .name = "here",
                         .packet_bytes = 8192,
                         .outage_ms = 60000,
                         .keepalive_ms = 1000,
                         .replay_bytes = 8 << 20,
                         .channels_max = 100};

void greeting(fuzz::input& in) {
    std::byte bytes[greeting_bytes];
    put_greeting(bytes, in.take<uint16_t>());
    if (in.one_in(4)) {
        bytes[in.below(sizeof bytes)] = std::byte(in.byte());
    }
    uint16_t lane = 0;
    const size_t size = in.one_in(4) ? in.below(sizeof bytes + 1) : sizeof bytes;
    if (!get_greeting(std::span(bytes).first(size), lane)) {
        std::byte again[greeting_bytes];
        put_greeting(again, lane);
        must(size == sizeof bytes && memcmp(bytes, again, sizeof again) == 0, "a greeting was taken that is none");
    }
}

// A correct packet with a hello in it that need not be one.
std::vector<std::byte> packet(fuzz::input& in) {
    std::vector<std::byte> out(in.one_in(16) ? in.below(2 * hello_bytes) : hello_bytes);
    if (out.size() < header_bytes + hello_body_bytes || in.one_in(8)) {
        std::ranges::copy(in.next(out.size()), out.begin());
        return out;
    }
    hello h;
    h.session = in.one_in(2) ? 5 : in.number();
    h.ack = in.number();
    h.body = {.node = in.number(),
              .packet_bytes = 8192,
              .answer = hello_verdict(in.below(6)),
              .outage_ms = 1000,
              .lane = in.take<uint16_t>(),
              .features = in.byte()};
    make_hello(out, h.session, h.ack, h.body);
    for (size_t lies = in.below(4); lies != 0; --lies) {
        out[header_bytes + in.below(hello_body_bytes)] = std::byte(in.byte());
    }
    header again;
    again.type = in.one_in(8) ? packet_type(in.byte()) : packet_type::hello;
    again.session = h.session;
    again.ack = h.ack;
    again.payload_bytes = in.one_in(8) ? in.take<uint32_t>() : uint32_t(hello_body_bytes);
    seal(out, again, crc_cover::packet);
    return out;
}

void check_settings(const engine_settings& s) {
    must(valid_packet_bytes(s.packet_bytes), "a session with packets of a size that there is not");
    must(s.packet_bytes <= ours.packet_bytes, "a session with packets larger than wanted");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    fuzz::input in(data, size);
    greeting(in);
    const auto theirs = to_hello(packet(in));
    if (!theirs) {
        return 0;
    }
    must(strnlen(theirs->body.name, name_bytes) < name_bytes, "a name without an end");
    must(std::ranges::all_of(std::string_view(theirs->body.name), [](unsigned char c) { return c > ' ' && c < 127; }),
         "a name that cannot be printed");
    // As the acceptor.
    const known_session known{5, in.number(), 4096};
    const acceptor_state state{in.one_in(8), theirs->session == known.session, !in.one_in(4)};
    const auto verdict = judge_request(*theirs, state);
    const bool continues = verdict == hello_verdict::welcome && theirs->session != 0;
    must(!continues || theirs->session == known.session, "a session goes on that is not known");
    const auto under = in.one_in(2) ? below::tls : below::tcp;
    const auto said = answer(ours, *theirs, verdict, continues ? &known : nullptr, under);
    must(to_hello(to_packet(said)).has_value(), "an answer that is no hello");
    must(under == below::tls || crc_cover_of(*theirs, said) == crc_cover::packet, "nothing proves the payload");
    check_settings(settings_of(side::acceptor, ours, *theirs, agreed_packet_bytes(ours, *theirs)));
    // As the initiator, who has asked for a new session or for its own.
    const auto asked = ask(ours, 3, in.one_in(2) ? &known : nullptr, under);
    switch (judge_answer(asked, *theirs)) {
    case answer_kind::begins:
        must(asked.session == 0 && theirs->session != 0, "a session begins that was not asked for");
        check_settings(settings_of(side::initiator, ours, *theirs, theirs->body.packet_bytes));
        break;
    case answer_kind::continues: must(theirs->session == asked.session, "another session goes on"); break;
    case answer_kind::lost: must(asked.session != 0, "a session is lost that was not asked for"); break;
    case answer_kind::refused:
    case answer_kind::wrong: break;
    }
    must(agreed_outage_ms(ours, *theirs) <= ours.outage_ms, "a session is kept longer than wanted");
    return 0;
}
