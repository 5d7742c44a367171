// The library's own descriptors: CLOEXEC, out of the program's reach, and with numbers beyond its RLIMIT_NOFILE, so
// that the program can have all of those below. Where the limit cannot be lifted for a moment (soft and hard limit are
// equal, and no privilege), or is very large, they are the last ones below it.
#pragma once

namespace vmsgr::preload {

// Moves *where out of the program's way, or keeps it where it is when there is no room. `where` is changed again if
// the program wants the number for itself.
void make_internal(int* where) noexcept;
// The two halves of it, for one that does not exist yet. The duplicate has a high number, or any where there is no
// room; -1 with errno: no descriptor.
int duplicate_internal(int fd) noexcept;
void mark_internal(int* where) noexcept;
void close_internal(int fd) noexcept;
void drop_internal(int* where) noexcept;
// The program wants number fd, which is internal: ours moves.
void move_internal(int fd) noexcept;

// New descriptors may have numbers beyond the limit from now on, if the limit is near `number`. True: they may, and
// lower_limit() is to follow soon; other threads that ask wait meanwhile, and all signals are blocked.
bool lift_limit(int number) noexcept;
void lower_limit() noexcept;
// There are numbers for what comes with a connection: far from the limit, or beyond it, or three below it.
bool room_to_accept(int last_number) noexcept;

// Last of all locks. The child has the limit that its parent has set.
void lock_limit_for_fork() noexcept;
void unlock_limit_after_fork() noexcept;

}  // namespace vmsgr::preload
