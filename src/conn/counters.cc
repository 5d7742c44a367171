#include "conn/counters.hh"

#include <numeric>

namespace vmsgr::net {

namespace {

constexpr std::string_view names[fault_kinds] = {"bad_ring_index", "foreign_bytes",    "bad_memory",
                                                 "bad_descriptor", "bad_job",          "bad_message",
                                                 "bad_hello",      "answers_not_read", "accept_error"};

}  // namespace

std::string_view to_text(fault f) noexcept { return names[size_t(f)]; }

uint64_t counters::faults_total() const noexcept {
    return std::accumulate(faults.begin(), faults.end(), uint64_t(0));
}

counters& counters::operator+=(const counters& o) noexcept {
    connections_total += o.connections_total;
    connects_failed += o.connects_failed;
    refused += o.refused;
    bytes_in += o.bytes_in;
    bytes_out += o.bytes_out;
    bytes_trunk += o.bytes_trunk;
    resets_sent += o.resets_sent;
    accept_pauses += o.accept_pauses;
    accepts_passed_on += o.accepts_passed_on;
    probes += o.probes;
    probes_absent += o.probes_absent;
    probes_skipped += o.probes_skipped;
    orphans += o.orphans;
    orphans_given_up += o.orphans_given_up;
    for (size_t i = 0; i < fault_kinds; ++i) {
        faults[i] += o.faults[i];
    }
    return *this;
}

}  // namespace vmsgr::net
