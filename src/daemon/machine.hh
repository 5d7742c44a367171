// What this machine, or the container that the daemon runs in, lets it use. Seastar-free; before anything starts.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.hh"

namespace vmsgr::daemon {

struct machine {
    uint64_t descriptors = 0;  // RLIMIT_NOFILE, raised to its hard limit
    uint64_t maps = 0;         // vm.max_map_count
    uint64_t memory = 0;       // bytes; the smallest limit of its cgroups counts
    bool contained = false;    // such a limit is smaller than the machine's memory
    uint64_t aio = 0;          // fs.aio-max-nr, less what is in use
    unsigned processors = 0;   // that this process may use

    static base::result<machine> read();
};

// The smallest memory limit of the cgroups that /proc/self/cgroup names and of those above them, of version 1 and 2;
// UINT64_MAX: none. `root`: where cgroups are mounted, /sys/fs/cgroup.
uint64_t memory_limit(std::string_view proc_self_cgroup, const std::string& root);

}  // namespace vmsgr::daemon
