// Our configuration in Seastar's words. Users never meet Seastar's own options.
#pragma once

#include <seastar/core/app-template.hh>

#include "conf/config.hh"

namespace vmsgr::daemon {

seastar::app_template::seastar_options reactor_options(const conf::daemon_config& c, bool log_times);

// After Seastar has set its own: its loggers speak from warnings on, ours from the configured level on.
void set_log_levels(const conf::daemon_config& c);

}  // namespace vmsgr::daemon
