// The folder of doors beside the control socket (proto/dial.hh). Whoever may search it and knows a door's name may
// dial; the names stand in the registry, which attached programs have. Nobody else writes there.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/error.hh"
#include "base/unique_fd.hh"

namespace vmsgr::local {

struct door_place {
    std::string name, path;
    uint64_t cookie = 0;  // base::socket_cookie: what the kernel calls it, whoever holds it
};

// A listening unix socket in the folder, with an unguessable name. `backlog` as in listen(2).
struct made_door {
    base::unique_fd fd;
    door_place place;
};
// The one of this name in the folder.
std::string door_path(const std::string& folder, std::string_view name);
base::result<made_door> make_door(const std::string& folder, int backlog);
void remove_door(const door_place& d) noexcept;

// A connection without a word, by which a program that waits in accept() learns that it has to look at its lifeline.
// Waits for nobody. A full queue is no loss: whoever accepts has something to take, and meets the knock of the next
// one. False: no program has the door open.
bool knock(const char* path) noexcept;
// At every door of the folder, but for these names, which are in order. remove: they are of an earlier daemon, or were
// of an earlier worker.
void knock_at_all(const char* folder, bool remove, std::span<const std::string> but = {}) noexcept;

}  // namespace vmsgr::local
