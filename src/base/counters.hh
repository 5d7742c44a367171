// A struct of counters has one table of its members: what adds, shows and tests them goes through the table, and a
// counter that is missing there does not compile. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace vmsgr::base {

template <typename Counters>
struct counter {
    using number = typename decltype(Counters::faults)::value_type;  // uint64_t, or base::tally
    std::string_view name;  // as `vmsgr status --json` shows it
    number Counters::* member;
};

// True if the table has all counters of the struct, whose array `faults` is the only other thing in it. The caller
// checks it with static_assert beside the table.
template <typename Counters, size_t N>
consteval bool lists_all(const counter<Counters> (&)[N]) {
    return sizeof(Counters) == N * sizeof(uint64_t) + sizeof(Counters::faults);
}

// The table and the faults, added member by member.
template <typename Counters, size_t N>
void add(Counters& to, const Counters& from, const counter<Counters> (&table)[N]) noexcept {
    for (auto& c : table) {
        to.*c.member += from.*c.member;
    }
    for (size_t i = 0; i < to.faults.size(); ++i) {
        to.faults[i] += from.faults[i];
    }
}

}  // namespace vmsgr::base
