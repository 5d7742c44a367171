// A child of vfork runs on its parent's memory and has numbers of its own: before it execs it closes, duplicates and
// replaces what it likes, also what leads to the daemon. The table (objects.hh) is its parent's and says nothing of
// them; the kernel's identity of a socket does. It never speaks with the daemon: what its heir needs is left there
// before, by the parent.
#pragma once

namespace vmsgr::preload {

// In the parent, before each vfork(). Costs a look at each connection, and a message for those that are new.
void prepare_vfork() noexcept;

// The rest is for the child alone.
// What the parent calls the connection or listener behind fd; -1: it is none of ours.
int number_in_parent(int fd) noexcept;
// All of its numbers for the socket behind fd become `by`.
void replace_in_child(int fd, int by) noexcept;
// What prepare_vfork() left with the daemon is for heirs of the child's user.
bool left_by_parent() noexcept;

// Numbers that a program is looked through for: those that it inherits, and a child's of vfork.
inline constexpr int inherited_fds_max = 1024;

}  // namespace vmsgr::preload
