#include "daemon/machine.hh"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>

namespace vmsgr::daemon {

namespace {

constexpr uint64_t no_limit = UINT64_MAX;

std::string text_of(const std::string& path) {
    std::ifstream in(path);
    std::ostringstream all;
    all << in.rdbuf();
    return std::move(all).str();
}

uint64_t number_in(const std::string& path, uint64_t otherwise) {
    const std::string text = text_of(path);
    uint64_t n = 0;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n);
    return ec == std::errc{} ? n : otherwise;  // "max"
}

// A group and all above it; a container sees its own as "/", wherever it is.
uint64_t smallest_limit(const std::string& root, std::string path, const char* file) {
    uint64_t least = number_in(root + "/" + file, no_limit);
    for (; path.size() > 1; path.resize(path.rfind('/'))) {
        least = std::min(least, number_in(root + path + "/" + file, no_limit));
    }
    return least;
}

}  // namespace

uint64_t memory_limit(std::string_view proc_self_cgroup, const std::string& root) {
    uint64_t least = no_limit;
    std::istringstream lines{std::string(proc_self_cgroup)};
    for (std::string line; std::getline(lines, line);) {
        const auto controllers = line.find(':');
        const auto path = controllers == line.npos ? line.npos : line.find(':', controllers + 1);
        if (path == line.npos) {
            continue;
        }
        const std::string of = "," + line.substr(controllers + 1, path - controllers - 1) + ",";
        if (of == ",,") {
            least = std::min(least, smallest_limit(root, line.substr(path + 1), "memory.max"));
        } else if (of.find(",memory,") != of.npos) {
            least = std::min(least, smallest_limit(root + "/memory", line.substr(path + 1), "memory.limit_in_bytes"));
        }
    }
    return least;
}

base::result<machine> machine::read() {
    machine m;
    rlimit r;
    if (::getrlimit(RLIMIT_NOFILE, &r) != 0) {
        return std::unexpected(base::os_error("cannot read the limit on descriptors"));
    }
    r.rlim_cur = r.rlim_max;
    if (::setrlimit(RLIMIT_NOFILE, &r) != 0) {
        return std::unexpected(base::os_error("cannot raise the limit on descriptors"));
    }
    m.descriptors = r.rlim_cur;
    m.maps = number_in("/proc/sys/vm/max_map_count", no_limit);
    const uint64_t physical = uint64_t(::sysconf(_SC_PHYS_PAGES)) * uint64_t(::sysconf(_SC_PAGESIZE));
    const uint64_t cgroups = memory_limit(text_of("/proc/self/cgroup"), "/sys/fs/cgroup");
    m.memory = std::min(physical, cgroups);
    m.contained = cgroups < physical;
    const uint64_t aio_max = number_in("/proc/sys/fs/aio-max-nr", no_limit);
    m.aio = aio_max - std::min(aio_max, number_in("/proc/sys/fs/aio-nr", 0));
    cpu_set_t cpus;
    m.processors = ::sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? unsigned(CPU_COUNT(&cpus)) : 0;
    return m;
}

}  // namespace vmsgr::daemon
