#include "base/random.hh"

#include <sys/random.h>

namespace vmsgr::base {

void random_bytes(void* at, size_t bytes) noexcept {
    auto* to = static_cast<unsigned char*>(at);
    while (bytes != 0) {
        const ssize_t n = ::getrandom(to, bytes, 0);
        if (n > 0) {  // else interrupted early in the boot; what can be guessed is never an alternative
            to += n;
            bytes -= size_t(n);
        }
    }
}

uint64_t random_u64_nonzero() noexcept {
    uint64_t n = 0;
    while (n == 0) {
        random_bytes(&n, sizeof n);
    }
    return n;
}

}  // namespace vmsgr::base
