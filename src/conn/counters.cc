#include "conn/counters.hh"

#include <numeric>

namespace vmsgr::conn {

namespace {

constexpr std::string_view names[fault_kinds] = {"bad_ring_index", "foreign_bytes", "bad_memory", "bad_descriptor",
                                                 "bad_job",        "bad_message",   "bad_hello",  "answers_not_read",
                                                 "accept_error",   "made_blocking"};

}  // namespace

std::string_view to_text(fault f) noexcept { return names[size_t(f)]; }

uint64_t counters::faults_total() const noexcept { return std::accumulate(faults.begin(), faults.end(), uint64_t(0)); }

}  // namespace vmsgr::conn
