// A fiber that nobody waits for, behind a gate: who closes the gate waits until it has ended. What it throws is logged
// once, with its name. On the gate's shard.
#pragma once

#include <string_view>
#include <utility>

#include <seastar/core/coroutine.hh>
#include <seastar/core/future.hh>
#include <seastar/core/gate.hh>
#include <seastar/util/log.hh>

namespace vmsgr::ssx {

namespace internal {

// `func` lives in this coroutine's frame, so that it may be a lambda coroutine with captures.
template <typename Func>
seastar::future<> run_spawned(seastar::gate::holder, seastar::logger& log, std::string_view name, Func func) {
    try {
        co_await func();
    } catch (...) {
        log.error("{} ended by an exception: {}", name, std::current_exception());
    }
}

}  // namespace internal

// Begins func() at once; it returns a future<>. `name` (a literal: "a listener") begins the line that reports what it
// throws, so what may be expected is to be caught inside. False: the gate is closed; func has not run, and what it
// holds is released.
template <typename Func>
bool spawn(seastar::gate& gate, seastar::logger& log, std::string_view name, Func func) {
    auto holder = gate.try_hold();
    if (!holder) {
        return false;
    }
    (void)internal::run_spawned(std::move(*holder), log, name, std::move(func));
    return true;
}

}  // namespace vmsgr::ssx
