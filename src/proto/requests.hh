// What a client's messages have to be before the daemon does anything about them: a hello, a request with the
// descriptors that came beside it, and a connect job as the program has posted it. Nothing is done here; each function
// says what is wrong.
//
// Seastar-free, any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>

#include "proto/control.hh"
#include "proto/routes.hh"

namespace vmsgr::proto {

// Magic, kind and version stand at the same place in every version, so that a refusal can name both.
enum class hello_fault : uint8_t {
    none,
    too_short,
    no_hello,       // another magic or kind
    other_version,  // hello_msg::version says which
    wrong_length,
    unknown_kind,   // of session
};
// What came is copied into `out`, as far as it goes.
hello_fault read_hello(std::span<const std::byte> bytes, hello_msg& out) noexcept;

// A client that breaks a rule of the protocol loses its session.
enum class rule : uint8_t { message, job, descriptor };
struct broken_rule {
    rule which;
    const char* text;
};

// As it was received: so many bytes, and so many descriptors, of which some may not have fitted.
struct request_size {
    size_t bytes;
    size_t fds;
    bool truncated;
};
// Nothing: magic, length, kind and the number of descriptors are right for a session of this kind.
std::optional<broken_rule> check_request(const request_msg& m, const request_size& got, session_kind session) noexcept;

// A connect job, copied out of memory that the program may change meanwhile.
struct posted_job {
    uint64_t id = 0;
    int program_fd = -1;
    base::address peer;
    std::string route;  // printable; empty: none
    uint32_t arena_slot = 0;
    bool by_trunk = false;
    proto::without_trunk without = without_trunk::unset;
    std::optional<linger> own_linger{};  // the socket lingers for no time, and is to linger so (feature_end_mark)
};
// The job that `m`, a checked connect request, names; its slot is free from then on. session_id: the sender's.
std::expected<posted_job, broken_rule> take_job(shm::session_segment& segment, const request_msg& m,
                                                uint64_t session_id);

// A name that a program wrote, fit to be shown; empty: none.
std::string route_name(const char (&text)[shm::name_bytes]);

}  // namespace vmsgr::proto
