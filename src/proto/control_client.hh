// The asking side of the control socket, for the library and for the command line: connect, hello and welcome, a
// request and its answer. Any thread, but one at a time on one socket. Nothing here allocates from the heap, or waits
// for longer than the caller says.
#pragma once

#include <cstdint>
#include <expected>
#include <span>
#include <string_view>

#include "base/clock.hh"
#include "base/unique_fd.hh"
#include "proto/control.hh"
#include "proto/documents.hh"

namespace vmsgr::proto {

// Why there is no session, for whoever can tell people. errnum 0: it has not failed.
struct attach_failure {
    enum class step : uint8_t {
        local,  // our own descriptors or memory
        reach,  // connect; EAGAIN: its backlog is full
        answer,  // no welcome came: ETIMEDOUT, or it hung up
        nonsense,  // what came is no welcome
        version,  // of the control protocol, or of the memory that came with it
        refused,
    };
    step at = step::local;
    int errnum = 0;
    uint16_t version = 0;  // the daemon's; 0: not of the control protocol
    size_t welcome_bytes = 0;  // nonsense: a welcome, but one of this size; 0: none
    char text[sizeof welcome_msg::text] = {};  // the daemon's own, when it refused
};

// Who attaches, and for how long each step is waited for.
struct attaching {
    session_kind session;
    std::string_view program;
    int answer_ms;
    int backlog_ms = 0;  // where the daemon's queue is full, the kernel waits for room
    uint64_t features = features_ours;
};

// A session: its socket, which does not block, and what came with the welcome, which is of our version and size.
struct attached {
    base::unique_fd socket;
    welcome_msg welcome;
    received with;
};
std::expected<attached, attach_failure> attach(const char* path, const attaching& how) noexcept;

// 0 or an errno; EAGAIN: the daemon lags, and has not got it.
int send_request(int sock, const request_msg& m, std::span<const int> fds) noexcept;
// The answer to the request with this serial; those to earlier ones, which came late, are skipped. 0: it is here, with
// a status of its own. Else an errno: ETIMEDOUT, ECONNRESET: the daemon hung up, EPROTO: that is no answer.
int receive_reply(int sock, uint32_t serial, const base::deadline& until, reply_msg& reply, received& got) noexcept;

// The next piece of a document that was asked for, as long as it has text and a status of 0. As above.
int receive_piece(int sock, uint32_t serial, const base::deadline& until, document_piece& piece) noexcept;

}  // namespace vmsgr::proto
