// The `trunk:` and `trunks:` sections of a configuration. Internal to src/conf.
#pragma once

#include "conf/reader.hh"
#include "conf/trunks.hh"

namespace vmsgr::conf {

void read_trunk(reader& r, const spot& at, trunk_config& out);
void read_trunks(reader& r, const spot& at, trunk_config& out);
// Defaults that follow from the rest.
void complete_trunks(trunk_config& out);

}  // namespace vmsgr::conf
