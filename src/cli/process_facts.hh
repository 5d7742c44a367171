// What /proc and the daemon say of one process, each of it read once: it may have thousands of sockets, and what is
// said of each of them may not cost a look at all of them. Single thread.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cli/document.hh"
#include "cli/proc.hh"

namespace vmsgr::cli {

// A word for programs and a text for people; both are empty where there is nothing to say.
using reason_and_text = std::pair<std::string, std::string>;

class process_facts {
    std::unordered_map<uint64_t, std::string_view> _by_inode;  // the daemon's connections, by that of their socket
    std::unordered_map<uint64_t, std::string_view> _by_bell;  // those in plain mode, by the inode of their doorbell
    std::unordered_map<int, const json*> _listeners;  // the daemon's of this process
    std::unordered_map<std::string, std::vector<const json*>> _learnt;  // trunks to daemons that were asked for
    const json& _session;
    const json* _any_listener = nullptr;
    std::optional<reason_and_text> _library, _own_fault;
    std::optional<socket_table> _sockets;

public:
    const pid_t pid;
    const bool exists;
    const std::string program;
    const std::optional<bool> has_library;  // nothing: it may not be read
    const base::result<environment> started_with;
    const bool filters_calls;  // by seccomp

    // daemon: its status, which outlives this.
    process_facts(pid_t process, const listed_status& daemon);

    // The daemon's entry of this process; empty: none.
    const json& session() const { return _session; }
    // The daemon's connection at the socket with this inode, by the descriptors of whose it is.
    std::optional<json> connection_at(uint64_t inode) const;
    // That in plain mode whose doorbell has this inode.
    std::optional<json> plain_by_bell(uint64_t inode) const;
    // The daemon's trunks that it learnt of by asking for a daemon at this connection's peer, on its shard.
    std::vector<const json*> probes_of(const json& connection) const;
    // The daemon's listener at this descriptor; null: none, or the daemon does not know the number.
    const json* listener_at(int fd) const;
    // The first of its listeners; null: it has none.
    const json* any_listener() const { return _any_listener; }
    // The variable as the process was started with; null: not set, or not to be read.
    const std::string* variable(const std::string& name) const;
    // Those of its network namespace.
    const socket_table& sockets();
    // Why the library is not in it.
    const reason_and_text& without_library();
    // What of the program itself leaves its connections to the kernel, whatever the routes say: a plain_cause.
    const reason_and_text& own_fault();
};

}  // namespace vmsgr::cli
