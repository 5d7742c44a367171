// What the kernel tells of unix sockets beyond /proc/net/unix. Single thread.
#pragma once

#include <cstdint>
#include <optional>

namespace vmsgr::cli {

// The inode of the socket at the other end of a connected unix socket of this network namespace; nothing: none, or not
// to be had.
std::optional<uint64_t> peer_of_unix_socket(uint64_t inode);

}  // namespace vmsgr::cli
