// error: the daemon itself is at fault or cannot go on. warn: something broke the rules or a limit was met.
// info: start and stop. debug: each session, connection and listener. trace: each wait.
#pragma once

#include <seastar/util/log.hh>

namespace vmsgr::net {

extern seastar::logger log;

}  // namespace vmsgr::net
