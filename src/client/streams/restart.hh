// After ppoll() was interrupted: would the kernel have restarted a send() or connect() that slept in its place?
#pragma once

namespace vmsgr::client {

// True when every handler that this process has installed carries SA_RESTART. With handlers of both kinds it
// cannot be known which one ran; EINTR is the answer then, as any handler may bring it.
bool signals_restart() noexcept;

}  // namespace vmsgr::client
