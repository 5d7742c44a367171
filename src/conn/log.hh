// error: the daemon itself is at fault or cannot go on. warn: something broke the rules or a limit was met.
// info: start and stop. debug: each session, connection and listener. trace: each wait.
#pragma once

#include <chrono>

#include <seastar/util/log.hh>

#include "conn/counters.hh"

namespace vmsgr::conn {

extern seastar::logger log;

// A line a second for each reason; the next one says how many were left out. For each place that logs, on each shard.
class log_limits {
    std::array<seastar::logger::rate_limit, fault_kinds> _of;

public:
    log_limits() : _of(make(std::make_index_sequence<fault_kinds>())) {}
    seastar::logger::rate_limit& of(fault f) noexcept { return _of[size_t(f)]; }

private:
    template <size_t... I>
    static std::array<seastar::logger::rate_limit, fault_kinds> make(std::index_sequence<I...>) {
        return {((void)I, seastar::logger::rate_limit(std::chrono::seconds(1)))...};
    }
};

}  // namespace vmsgr::conn
