// error: the daemon itself is at fault. warn: a peer broke the rules, a trunk is down, a limit was met. info: sessions
// begin and end. debug: each attempt and each stranger.
#pragma once

#include <seastar/util/log.hh>

namespace vmsgr::trunks {

extern seastar::logger log;

}  // namespace vmsgr::trunks
