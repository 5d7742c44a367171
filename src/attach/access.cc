#include "attach/access.hh"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "base/sockets.hh"

namespace vmsgr::attach {

namespace {

std::vector<gid_t> supplementary_groups(int sock) {
    std::vector<gid_t> groups(64);
    for (int attempt = 0; attempt < 2; ++attempt) {
        socklen_t len = socklen_t(groups.size() * sizeof(gid_t));
        int r = ::getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &len);
        groups.resize(len / sizeof(gid_t));  // the kernel says how many there are, also when they do not fit
        if (r == 0) {
            return groups;
        }
    }
    return {};
}

}  // namespace

std::optional<peer_identity> identify(int sock) noexcept {
    const auto c = base::peer_credentials(sock);
    return c ? std::optional(peer_identity{c->pid, c->uid, c->gid}) : std::nullopt;
}

bool may_attach(const conf::access_config& rules, int sock, const peer_identity& who) {
    if ((rules.uids.empty() && rules.gids.empty()) || who.uid == ::geteuid()) {
        return true;
    }
    auto listed = [&rules](gid_t g) { return std::ranges::find(rules.gids, g) != rules.gids.end(); };
    return std::ranges::find(rules.uids, who.uid) != rules.uids.end() || listed(who.gid) ||
           std::ranges::any_of(supplementary_groups(sock), listed);
}

bool is_in_charge(const peer_identity& who) noexcept { return who.uid == 0 || who.uid == ::geteuid(); }

viewer viewer_at(const conf::access_config& rules, int sock, const peer_identity& who) {
    auto observes = [&](gid_t g) { return rules.observers_gid && g == *rules.observers_gid; };
    const bool all = is_in_charge(who) || observes(who.gid) ||
                     (rules.observers_gid && std::ranges::any_of(supplementary_groups(sock), observes));
    return {who.uid, all};
}

}  // namespace vmsgr::attach
