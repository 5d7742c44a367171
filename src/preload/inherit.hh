// Conduits across exec. The new program finds the numbers that stayed open, and in $VMSGR_FDS, by the inode of
// its doorbell, which connection each of them is; the daemon gives it the memory.
#pragma once

namespace vmsgr::preload {

// In the constructor: takes over what $VMSGR_FDS names, and removes it from the environment.
void take_inheritance() noexcept;

// The environment for a new program: `envp` itself when nothing is passed on, else a copy with $VMSGR_FDS.
// `all`: also what is close-on-exec, because file actions may give it another number.
// The copy lies in memory that is not freed; exec replaces it, and a failed exec costs its size.
char* const* environment_for_exec(char* const* envp, bool all) noexcept;

}  // namespace vmsgr::preload
