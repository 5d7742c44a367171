#include "ssx/idle_yield.hh"

#include <sched.h>

#include <seastar/core/idle_cpu_handler.hh>
#include <seastar/core/reactor.hh>

namespace vmsgr::ssx {

void yield_when_idle() {
    seastar::engine().set_idle_cpu_handler([](seastar::work_waiting_on_reactor) {
        ::sched_yield();
        return seastar::idle_cpu_handler_result::no_more_work;
    });
}

}  // namespace vmsgr::ssx
