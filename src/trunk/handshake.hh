// The hellos of both sides, without I/O: what the initiator asks for, what the acceptor answers, what each makes of the
// other's hello, and the settings of the session on which they agree. src/trunks sends and receives the packets.
//
// Any thread.
#pragma once

#include <array>
#include <expected>
#include <string>

#include "trunk/engine.hh"

namespace vmsgr::trunk {

// What this daemon brings into every session.
struct session_terms {
    uint64_t node = 0;
    std::string name;  // informational
    uint32_t packet_bytes = packet_bytes_default;
    uint32_t outage_ms = 0;
    uint32_t keepalive_ms = 0;
    uint64_t replay_bytes = 0;
    uint64_t channels_max = 0;
};

// How the connection below is secured.
enum class below : uint8_t { tcp, tls };

// A hello with those fields of its packet's header that matter.
struct hello {
    uint64_t session = 0;
    uint64_t ack = 0;
    hello_body body;
};
using hello_packet = std::array<std::byte, hello_bytes>;
hello_packet to_packet(const hello& h) noexcept;
// Fewer bytes than a hello has: the connection ended inside it.
std::expected<hello, packet_fault> to_hello(std::span<const std::byte> bytes);

// A session that one of the sides wants to continue.
struct known_session {
    uint64_t session = 0;
    uint64_t received = 0;  // the last data packet that has come
    size_t packet_bytes = 0;
};

// --- the initiator ----------------------------------------------------------------------------------------------

// Asks for a new session, or for `known` to go on.
hello ask(const session_terms& ours, uint16_t lane, const known_session* known, below) noexcept;

enum class answer_kind : uint8_t {
    begins,  // the session that the answer names
    continues,  // the one that was asked for
    lost,  // the peer does not know it any more: all its channels are gone
    refused,  // see answer.why
    wrong,  // an honest peer does not answer so
};
answer_kind judge_answer(const hello& asked, const hello& answer) noexcept;

// --- the acceptor -----------------------------------------------------------------------------------------------

// What the acceptor knows when a hello has come.
struct acceptor_state {
    bool stopping = false;
    bool knows_session = false;  // the one that the hello names, if it names one
    bool has_room = true;  // for one more session
};
hello_verdict judge_request(const hello& asked, const acceptor_state& s) noexcept;
// The size of packets in a new session.
uint32_t agreed_packet_bytes(const session_terms& ours, const hello& theirs) noexcept;
// `session`: the one that begins or goes on; null where the verdict is no welcome.
hello answer(const session_terms& ours, const hello& asked, hello_verdict verdict, const known_session* session,
             below) noexcept;

// --- both -------------------------------------------------------------------------------------------------------

// theirs: the peer's hello at the beginning of the session.
engine_settings settings_of(side which, const session_terms& ours, const hello& theirs, size_t packet_bytes) noexcept;
// What the CRC of packets covers on this connection. It depends on what both ends said: TLS may end before a daemon.
crc_cover crc_cover_of(const hello& asked, const hello& answered) noexcept;
// How long a session lives without a connection.
uint32_t agreed_outage_ms(const session_terms& ours, const hello& theirs) noexcept;

}  // namespace vmsgr::trunk
