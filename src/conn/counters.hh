// What a shard has done so far, and the reasons for which it closed things. Plain numbers of one shard; `status`
// adds those of all shards up. A new counter is a member and a line of the table.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "base/counters.hh"

namespace vmsgr::conn {

// Rules broken by a program (or, for unreachable_state, by ourselves).
enum class fault : uint8_t {
    bad_ring_index,    // an index in a ring that no honest peer writes
    foreign_bytes,     // a raw write reached a doorbell
    bad_memory,        // a conduit without seals, of a wrong size or layout
    bad_descriptor,    // not the socket that a job promises, or too few of them
    bad_job,           // a slot out of range or not posted, a key that does not fit
    bad_message,       // wrong length, magic or kind
    bad_hello,         // no or a wrong handshake in time
    answers_not_read,  // a program that asks and never reads
    accept_error,      // the kernel refused accept for a reason that is not a limit
    made_blocking,     // a socket that somebody made blocking in the middle of a call, which waited
};
inline constexpr size_t fault_kinds = 10;
std::string_view to_text(fault) noexcept;

struct counters {
    uint64_t connections_total = 0;
    uint64_t connects_failed = 0;   // by the network, as without us
    uint64_t refused = 0;           // by a limit or a rule of ours
    uint64_t bytes_in = 0;          // to programs
    uint64_t bytes_out = 0;         // from programs
    uint64_t bytes_trunk = 0;       // of both, over trunks
    uint64_t resets_sent = 0;       // connections that we ended with RST
    uint64_t accept_pauses = 0;     // out of descriptors or memory: accepting waited
    uint64_t accepts_passed_on = 0; // no room to carry them: the program got the kernel's socket
    uint64_t probes = 0;            // hosts that were asked for a daemon
    uint64_t probes_absent = 0;     // of these: none answered, or it refused
    uint64_t probes_skipped = 0;    // not asked: as many as the limit are known
    uint64_t orphans = 0;           // programs that left with data still to be sent
    uint64_t orphans_given_up = 0;  // of these: no progress up to the limit
    uint64_t no_memory = 0;         // requests that ended because the shard had none
    uint64_t never_closed = 0;      // files of strangers: too many others wait to be closed
    uint64_t plain = 0;             // connections that turned plain, for a program without the library
    std::array<uint64_t, fault_kinds> faults{};

    void count(fault f) noexcept { ++faults[size_t(f)]; }
    uint64_t faults_total() const noexcept;
};
inline constexpr base::counter<counters> counter_table[] = {
    {"connections_total", &counters::connections_total},
    {"connects_failed", &counters::connects_failed},
    {"refused", &counters::refused},
    {"bytes_in", &counters::bytes_in},
    {"bytes_out", &counters::bytes_out},
    {"bytes_trunk", &counters::bytes_trunk},
    {"resets_sent", &counters::resets_sent},
    {"accept_pauses", &counters::accept_pauses},
    {"accepts_passed_on", &counters::accepts_passed_on},
    {"trunk_probes", &counters::probes},
    {"trunk_probes_absent", &counters::probes_absent},
    {"trunk_probes_skipped", &counters::probes_skipped},
    {"orphans", &counters::orphans},
    {"orphans_given_up", &counters::orphans_given_up},
    {"no_memory", &counters::no_memory},
    {"never_closed", &counters::never_closed},
    {"plain", &counters::plain},
};
static_assert(base::lists_all(counter_table));

}  // namespace vmsgr::conn
