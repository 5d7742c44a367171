// Who is at the other end of a control socket, as the kernel says, and whether the configuration lets it attach.
#pragma once

#include <sys/types.h>

#include <optional>

#include "conf/config.hh"

namespace vmsgr::attach {

struct peer_identity {
    pid_t pid = 0;
    uid_t uid = 0;
    gid_t gid = 0;
};
std::optional<peer_identity> identify(int sock) noexcept;

// The daemon's own user is always let in. Otherwise one listed user, or one listed group, its own or a
// supplementary one, is enough; with both lists empty the socket's mode has decided already.
bool may_attach(const conf::access_config& rules, int sock, const peer_identity& who);

// Root and the daemon's own user.
bool is_in_charge(const peer_identity& who) noexcept;

// Who asks for status: what is shown is their own, or all of it.
struct viewer {
    uid_t uid = 0;
    bool sees_all = false;
    bool sees(uid_t owner) const noexcept { return sees_all || owner == uid; }
};
// Root, the daemon's own user and the members of access.observers see everything.
viewer viewer_at(const conf::access_config& rules, int sock, const peer_identity& who);

}  // namespace vmsgr::attach
