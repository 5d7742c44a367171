// A fiber that nobody waits for, behind a gate: who closes the gate waits until it has ended. What it throws is logged
// once, with its name. On the gate's shard.
#pragma once

#include <chrono>
#include <new>
#include <string_view>
#include <utility>

#include <seastar/core/coroutine.hh>
#include <seastar/core/future.hh>
#include <seastar/core/gate.hh>
#include <seastar/coroutine/maybe_yield.hh>
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

template <typename Func>
seastar::future<> run_again(seastar::gate::holder, const seastar::gate& gate, seastar::logger& log,
                            std::string_view name, Func func) {
    for (bool again = true; again;) {
        try {
            co_await func();
            again = false;
        } catch (const std::bad_alloc&) {
            static thread_local seastar::logger::rate_limit rate(std::chrono::seconds(1));
            log.log(seastar::log_level::warn, rate, "no memory for {}; it begins again", name);
            again = !gate.is_closed();
        } catch (...) {
            log.error("{} ended by an exception: {}", name, std::current_exception());
            again = false;
        }
        co_await seastar::coroutine::maybe_yield();
    }
}

}  // namespace internal

// Begins func() at once; it returns a future<>. `name` (a literal: "a listener") begins the line that reports what it
// throws, so what may be expected is to be caught inside. False: the gate is closed; func has not run, and what it
// holds is released; so it is where std::bad_alloc is thrown. What is to be done at the end in any case is for the
// destructor of something that func holds, as even its beginning takes memory.
template <typename Func>
bool spawn(seastar::gate& gate, seastar::logger& log, std::string_view name, Func func) {
    auto holder = gate.try_hold();
    if (!holder) {
        return false;
    }
    (void)internal::run_spawned(std::move(*holder), log, name, std::move(func));
    return true;
}

// The same for what is to run as long as the gate is open: where it ends for want of memory it begins again.
template <typename Func>
bool spawn_for_good(seastar::gate& gate, seastar::logger& log, std::string_view name, Func func) {
    auto holder = gate.try_hold();
    if (!holder) {
        return false;
    }
    (void)internal::run_again(std::move(*holder), gate, log, name, std::move(func));
    return true;
}

}  // namespace vmsgr::ssx
