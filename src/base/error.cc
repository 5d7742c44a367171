#include "base/error.hh"

#include <errno.h>
#include <string.h>

namespace vmsgr::base {

error os_error(std::string_view what) {
    const int errnum = errno;
    return {errnum, std::string(what) + ": " + strerror(errnum)};
}

}  // namespace vmsgr::base
