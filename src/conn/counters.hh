// What a shard has done so far, and the reasons for which it closed things. One shard writes them; `status`
// adds those of all shards up, and they lie in the page of counters. A new counter is a member and a line of the table.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "base/counters.hh"
#include "base/tally.hh"

namespace vmsgr::conn {

// Rules broken by a program (or, for unreachable_state, by ourselves).
enum class fault : uint8_t {
    bad_ring_index,  // an index in a ring that no honest peer writes
    foreign_bytes,  // a raw write reached a doorbell
    bad_memory,  // a conduit without seals, of a wrong size or layout
    bad_descriptor,  // not the socket that a job promises, or too few of them
    bad_job,  // a slot out of range or not posted, a key that does not fit
    bad_message,  // wrong length, magic or kind
    bad_hello,  // no or a wrong handshake in time
    answers_not_read,  // a program that asks and never reads
    accept_error,  // the kernel refused accept for a reason that is not a limit
    made_blocking,  // a socket that somebody made blocking in the middle of a call, which waited
};
inline constexpr size_t fault_kinds = 10;
std::string_view to_text(fault) noexcept;

struct counters {
    base::tally connections_total;
    base::tally connects_failed;  // by the network, as without us
    base::tally refused;  // by a limit or a rule of ours
    base::tally bytes_in;  // to programs
    base::tally bytes_out;  // from programs
    base::tally bytes_trunk;  // of both, over trunks
    base::tally resets_sent;  // connections that we ended with RST
    base::tally accept_pauses;  // out of descriptors or memory: accepting waited
    base::tally accepts_passed_on;  // no room to carry them: the program got the kernel's socket
    base::tally accepts_by_route;  // the same, as their route is via: local
    base::tally probes;  // hosts that were asked for a daemon
    base::tally probes_absent;  // of these: none answered, or it refused
    base::tally probes_skipped;  // not asked: as many as the limit are known
    base::tally orphans;  // programs that left with data still to be sent
    base::tally orphans_given_up;  // of these: no progress up to the limit
    base::tally no_memory;  // requests that ended because the shard had none
    base::tally never_closed;  // files of strangers: too many others wait to be closed
    base::tally plain;  // connections that turned plain, for a program without the library
    base::tally given_back;  // connections that became their programs' own sockets again
    std::array<base::tally, fault_kinds> faults{};

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
    {"accepts_by_route", &counters::accepts_by_route},
    {"trunk_probes", &counters::probes},
    {"trunk_probes_absent", &counters::probes_absent},
    {"trunk_probes_skipped", &counters::probes_skipped},
    {"orphans", &counters::orphans},
    {"orphans_given_up", &counters::orphans_given_up},
    {"no_memory", &counters::no_memory},
    {"never_closed", &counters::never_closed},
    {"plain", &counters::plain},
    {"given_back", &counters::given_back},
};
static_assert(base::lists_all(counter_table));

}  // namespace vmsgr::conn
