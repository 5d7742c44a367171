// Why a connection is in plain mode, or why a program leaves all of its connections to the kernel. The library knows it
// and writes the number into shared memory, where it is information and nothing more: it is never trusted. Any thread.
#pragma once

#include <cstdint>

#include "base/program_file.hh"

namespace vmsgr::proto {

enum class plain_cause : uint8_t {
    none,
    // Of the whole program, from then on.
    io_uring,
    seccomp,
    deepbind,
    other_namespace,
    // Of a connection that the program uses itself.
    stdio,
    aio,
    // A program was started that gets it, and that ...
    no_preload,
    other_routes,
    not_told,
    not_routed,
    not_attached,
    // ... by its file: base::preload_obstacle in the same order.
    unreadable,
    linked_statically,
    other_class,
    other_machine,
    other_libc,
    setuid,
    setgid,
    capabilities,
    go,
    // It was sent to a process that ...
    receiver_unknown,
    receiver_without_library,
    receiver_of_another_user,
};

constexpr plain_cause cause_of(base::preload_obstacle o) noexcept {
    using enum base::preload_obstacle;
    return o == none ? plain_cause::none
                     : plain_cause(uint8_t(o) - uint8_t(unreadable) + uint8_t(plain_cause::unreadable));
}
static_assert(cause_of(base::preload_obstacle::go) == plain_cause::go);

// What somebody wrote: a number that is none of these is `none`.
constexpr plain_cause read_cause(uint32_t written) noexcept {
    return written <= uint32_t(plain_cause::receiver_of_another_user) ? plain_cause(written) : plain_cause::none;
}

// A word for programs ("io_uring"; empty for none), and half a sentence for people.
const char* to_word(plain_cause c) noexcept;
const char* to_text(plain_cause c) noexcept;

}  // namespace vmsgr::proto
