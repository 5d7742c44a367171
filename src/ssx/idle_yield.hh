// While a reactor has nothing to do it looks for work for a while (idle_poll_us) before it sleeps. Whoever it has just
// woken on its own processor would wait as long: with fewer processors than daemons and programs a round trip over two
// daemons took 230 us instead of 40. So it offers its processor between two looks.
//
// On each shard, once. A reactor that polls for ever (poll_mode busy) yields as well.
#pragma once

namespace vmsgr::ssx {

void yield_when_idle();

}  // namespace vmsgr::ssx
