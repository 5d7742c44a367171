// Facts about another process from /proc: what a descriptor is, which addresses a socket has, what the process
// loaded and was started with. Everything may vanish while it is read; then the answer is "nothing". Single thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/address.hh"
#include "base/error.hh"

namespace vmsgr::cli {

bool process_exists(pid_t pid);
// The basename of its first word, which is what the library matches routes with; empty when unknown.
std::string program_of(pid_t pid);
// A path under which its executable can be opened.
std::string executable_of(pid_t pid);

// What /proc/PID/fd/FD points to: "socket:[123]". errnum: ENOENT, EACCES ...
base::result<std::string> descriptor_link(pid_t pid, int fd);
std::optional<uint64_t> socket_inode(const std::string& link);
// Of the socket that FD is; none where it is something else, or cannot be seen.
std::optional<uint64_t> socket_at(pid_t pid, int fd);

enum class socket_kind { tcp, udp, unix_stream, unix_seqpacket, unix_other, other };
struct socket_facts {
    socket_kind kind = socket_kind::other;
    base::address local, peer;  // TCP and UDP
    bool listening = false;
    bool served_here = false;   // something listens on the local port: this end was accepted
};
// The sockets of the network namespace of that process, read once: it may have thousands, and so may others.
class socket_table {
    std::unordered_map<uint64_t, socket_facts> _by_inode;
    std::unordered_set<uint16_t> _served_ports;  // on which something listens for TCP

public:
    explicit socket_table(pid_t pid);
    socket_facts look_up(uint64_t inode) const;
    // The inode of the socket at the other end of a TCP connection; nothing: it is not of this namespace.
    std::optional<uint64_t> other_end(const socket_facts& of) const;
};

// Is a file of this name mapped? Nothing when /proc/PID/maps may not be read.
std::optional<bool> has_mapped(pid_t pid, const std::string& file_name);
// It was started with rights that its real user has not (setuid, setgid, capabilities), so the dynamic linker took no
// library from the environment. Nothing when it may not be read.
std::optional<bool> was_secure_execution(pid_t pid);
// Of /proc/PID/status: "PPid", "Seccomp"; 0 when there is none.
int status_number(pid_t pid, const std::string& name);
// Its open descriptors, in order; empty when they may not be read.
std::vector<int> descriptors_of(pid_t pid);
// Has it an open descriptor of this kind: "anon_inode:[io_uring]"?
bool has_descriptor(pid_t pid, const std::string& link);

// The variables with which the process was started; errnum EACCES: they cannot be read, or are overwritten.
using environment = std::unordered_map<std::string, std::string>;
base::result<environment> environment_of(pid_t pid);

}  // namespace vmsgr::cli
