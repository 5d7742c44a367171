#include "base/random.hh"

#include <sys/random.h>

namespace vmsgr::base {

uint64_t random_u64_nonzero() noexcept {
    uint64_t n = 0;
    while (n == 0) {
        if (::getrandom(&n, sizeof n, 0) != ssize_t(sizeof n)) {
            n = 0;  // interrupted early in the boot; a number that can be guessed is never an alternative
        }
    }
    return n;
}

}  // namespace vmsgr::base
