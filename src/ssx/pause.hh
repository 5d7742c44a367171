// Sleeping until a time is over or the work stops; what waited sees by itself which of the two it was. On the shard of
// `stop`.
#pragma once

#include <seastar/core/abort_source.hh>
#include <seastar/core/coroutine.hh>
#include <seastar/core/sleep.hh>
#include <seastar/coroutine/as_future.hh>

namespace vmsgr::ssx {

template <typename Clock = seastar::steady_clock_type>
seastar::future<> pause(typename Clock::duration time, seastar::abort_source& stop) {
    auto slept = co_await seastar::coroutine::as_future(seastar::sleep_abortable<Clock>(time, stop));
    slept.ignore_ready_future();
}

}  // namespace vmsgr::ssx
