// What the files of the C API share. Internal; any thread.
#pragma once

#include <errno.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "base/error.hh"
#include "client/session.hh"
#include "vmsgr/vmsgr.h"

// The session itself stays until the last of its listeners and channels is closed.
struct vmsgr_session {
    std::shared_ptr<vmsgr::client::session> session;
    char path[sizeof(sockaddr_un::sun_path)];
};

namespace vmsgr::client::api {

// -1 with errno and, where there is a place for it, the text.
__attribute__((format(printf, 3, 4))) int fail(vmsgr_error* error, int errnum, const char* format, ...) noexcept;
int fail(vmsgr_error* error, const base::error& why) noexcept;

// 0 or an errno. A program compiled against a later header may ask for what this library does not know. bytes_min: of
// the struct as it was first published.
template <typename Options>
int read_options(const Options* given, Options& options, size_t bytes_min = sizeof(Options)) noexcept {
    options = {};
    if (given == nullptr) {
        return 0;
    }
    if (given->size < bytes_min) {
        return EINVAL;
    }
    auto* bytes = reinterpret_cast<const char*>(given);
    if (std::any_of(bytes + sizeof options, bytes + std::max(given->size, sizeof options),
                    [](char c) { return c != 0; })) {
        return EINVAL;
    }
    memcpy(&options, given, std::min(given->size, sizeof options));
    return 0;
}

// Nothing thrown crosses the C boundary: the only thing that is, is bad_alloc.
template <typename F>
int guarded(vmsgr_error* error, F&& f) noexcept {
    try {
        return f();
    } catch (const std::bad_alloc&) {
        return fail(error, ENOMEM, "no memory");
    }
}

}  // namespace vmsgr::client::api
