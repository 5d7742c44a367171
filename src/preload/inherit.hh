// Conduits that come from elsewhere: through exec, or as SCM_RIGHTS from a relative. A doorbell carries its
// connection's key in the kernel; the daemon gives the memory for it.
#pragma once

#include <sys/socket.h>

namespace vmsgr::preload {

// In the constructor: looks through the numbers of this process if its predecessor had conduits.
void take_inheritance() noexcept;

// After recvmsg(): what the descriptors that came are.
void take_received(const msghdr* m) noexcept;

// Before sendmsg(): a listener that goes to another process has a holder that is never counted off again.
void note_sent(const msghdr* m) noexcept;

// The environment for a new program: `envp` itself where there is no conduit, else a copy that says there are.
// The copy lies in memory that is not freed; exec replaces it, and a failed exec costs its size.
char* const* environment_for_exec(char* const* envp) noexcept;

}  // namespace vmsgr::preload
