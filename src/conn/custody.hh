// What the keeper holds, for those whose things these are (docs/KEEPER.md). Each on its shard.
#pragma once

#include <string.h>

#include <array>
#include <string>

#include "base/unique_fd.hh"
#include "conn/program.hh"
#include "keeper/ledger.hh"
#include "proto/control.hh"

namespace vmsgr::conn {

// Of something that an earlier worker had, in the order of keeper::kept_fd.
using kept_descriptors = std::array<base::unique_fd, keeper::kept_fds>;

inline void note_owner(keeper::entry& e, const program& p) noexcept {
    e.owner.session = p.session_id;
    e.owner.features = p.features;
    e.owner.pid = p.pid;
    e.owner.uid = p.uid();
    proto::copy_text(e.owner.program, p.name);
}

// Why something does not go on.
inline constexpr const char* no_room_in_limits = "there is no room for it in the limits";

template <size_t N>
std::string text_in(const char (&text)[N]) {
    return std::string(text, strnlen(text, N));
}

}  // namespace vmsgr::conn
