// vmsgrd's command line. Seastar-free.
#pragma once

#include <optional>
#include <string>

#include "conf/config.hh"

namespace vmsgr::daemon {

struct options {
    bool no_seccomp = false;
    std::string config;  // empty: the built-in defaults, which route nothing
    bool check_config = false;
    bool upgrade = false;
    bool reload = false;  // upgrade, if the vmsgrd that runs is of another file
    std::optional<conf::poll_mode> polling;
};

// Either options, or the exit code of a command line that has been answered (--help, --version) or refused; what
// there is to say was said.
struct parsed {
    std::optional<options> run;
    int exit_code = 0;
};
parsed parse_options(int argc, char** argv);

}  // namespace vmsgr::daemon
