// Puts another kernel object behind the numbers of an object: all its dups, with their close-on-exec flags, and
// every epoll registration that was made before.
#pragma once

#include "base/unique_fd.hh"
#include "client/hand_over.hh"
#include "preload/objects.hh"

namespace vmsgr::preload {

using client::copy_description;

// Under the table's lock. `fd` is one of `from`'s numbers, or a number nothing is known of (from null). All of
// them lead to `to` afterwards; `from` is left without numbers and returned when it is to be finish()ed.
// What fails half-way (a number that was closed meanwhile) is left out.
// done: whether the kernel did it, which it refuses where the number lies beyond a limit that was lowered since.
object* swap_behind(int fd, object* from, object* to, int kernel_object, bool* done = nullptr) noexcept;
// The number alone. False: see above.
bool replace_number(int fd, int kernel_object, bool closes_on_exec) noexcept;

// What an epoll set that has it asks for, as far as the stream itself has to know.
void note_interest(client::stream& s, uint32_t events) noexcept;

// Puts `by` behind all numbers of the connection at `fd`, which stays what it is. For client::fd_rules.
void replace_connection(int fd, int by) noexcept;

// The daemon gave a connection's kernel socket back: its numbers are that from now on. For client::fd_rules.
void become_socket(int fd, int socket, bool first) noexcept;

// Out of every epoll set that is known to have it. False: there may be others. Under the lock.
bool take_out_of_sets(object* o) noexcept;
// For a connection that stands, without the lock: the record knows enough for its close already. Programs that take a
// descriptor out of their set and put it back for each message (redis-benchmark) would pay for the lock ten times; so
// a record may outlive its registration, as long as there is room.
bool is_recorded(const object& o, int epfd, int op, int fd) noexcept;
// Records what a program told an epoll descriptor about one of ours. Under the lock.
void record_registration(int epfd, int op, int fd, const epoll_event* event) noexcept;

}  // namespace vmsgr::preload
