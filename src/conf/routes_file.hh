// The `routes:` list. Internal to src/conf.
#pragma once

#include "conf/reader.hh"
#include "proto/routes.hh"

namespace vmsgr::conf {

void read_routes(reader& r, const spot& at, proto::route_table& out);

}  // namespace vmsgr::conf
