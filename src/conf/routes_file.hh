// The `routes:` list. Internal to src/conf.
#pragma once

#include <bitset>

#include "conf/reader.hh"
#include "proto/routes.hh"

namespace vmsgr::conf {

// Which routes say `fallback` themselves.
using fallback_said = std::bitset<proto::routes_max>;
void read_routes(reader& r, const spot& at, proto::route_table& out, fallback_said& said);
// Defaults that follow from the rest: with TLS on trunks a route that leads there goes nowhere else unless it says so,
// and neither does any that says that while there is no daemon.
void complete_routes(proto::route_table& t, const fallback_said& said, bool tls);

}  // namespace vmsgr::conf
