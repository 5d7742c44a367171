#include "shm/spin.hh"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>

#include "base/sys.hh"

namespace vmsgr::shm {

bool has_one_processor() noexcept {
    uint64_t mask[128];  // larger than cpu_set_t, which big machines exceed
    int saved = errno;
    long bytes = sys::call(SYS_sched_getaffinity, 0, sizeof mask, mask);
    errno = saved;
    int n = 0;
    for (long i = 0; i < bytes / long(sizeof mask[0]); ++i) {
        n += std::popcount(mask[i]);
    }
    return n == 1;
}

void set_spin_limit(uint32_t us) noexcept {
    spin_limit.store(has_one_processor() ? 0 : us * 1000, std::memory_order_relaxed);
}

}  // namespace vmsgr::shm
