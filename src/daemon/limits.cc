#include "daemon/limits.hh"

#include <errno.h>
#include <sched.h>
#include <sys/resource.h>

#include <string>

#include "conn/budget.hh"
#include "shm/bell.hh"

namespace vmsgr::daemon {

base::result<uint64_t> raise_descriptor_limit() {
    rlimit r;
    if (::getrlimit(RLIMIT_NOFILE, &r) != 0) {
        return std::unexpected(base::os_error("cannot read the limit on descriptors"));
    }
    r.rlim_cur = r.rlim_max;
    if (::setrlimit(RLIMIT_NOFILE, &r) != 0) {
        return std::unexpected(base::os_error("cannot raise the limit on descriptors"));
    }
    constexpr uint64_t least = net::fds_reserve + 64;
    if (r.rlim_cur < least) {
        return base::fail(EMFILE, "only " + std::to_string(r.rlim_cur) + " descriptors allowed, " +
                                      std::to_string(least) + " is the least; raise LimitNOFILE or ulimit -n");
    }
    return r.rlim_cur - net::fds_reserve;
}

base::result<void> check_machine(const conf::daemon_config& c) {
    cpu_set_t cpus;
    if (::sched_getaffinity(0, sizeof cpus, &cpus) == 0 && unsigned(CPU_COUNT(&cpus)) < c.shards) {
        return base::fail(EINVAL, "shards: " + std::to_string(c.shards) + ", but this process may use only " +
                                      std::to_string(CPU_COUNT(&cpus)) + " processors; lower shards");
    }
    auto bell = shm::measure_bell();
    if (!bell) {
        return std::unexpected(bell.error());
    }
    if (!bell->usable()) {
        return base::fail(ENOTSUP, "this kernel counts unix socket buffers in a way that doorbells cannot use (" +
                                       std::to_string(bell->until_unwritable) + " tokens until not writable, " +
                                       std::to_string(bell->until_refused) + " until refused); please report it");
    }
    return {};
}

}  // namespace vmsgr::daemon
