// What the daemon does with kernel sockets that programs gave it. The program may hold the same open file
// description, so no flag or option is believed to stay as it was set. Nothing here waits.
#pragma once

#include "base/address.hh"
#include "base/error.hh"
#include "base/names.hh"
#include "base/unique_fd.hh"

namespace vmsgr::conn {

bool is_listening(int fd) noexcept;

// The status flags before, or -1 with errno.
int make_nonblocking(int fd) noexcept;

// Another descriptor of the same open file; none on failure, and for -1.
base::unique_fd duplicate(int fd) noexcept;

inline base::address local_address(int fd) noexcept { return base::local_name(fd); }
inline base::address peer_address(int fd) noexcept { return base::peer_name(fd); }
int take_socket_error(int fd) noexcept;

// Bytes wait to be sent, or to be acknowledged.
bool has_unsent(int fd) noexcept;
// Bytes wait to be received.
bool has_unread(int fd) noexcept;

// Where a connect() that the program began stands.
// elsewhere: not on this way; the kernel is to connect.
enum class progress : uint8_t { under_way, up, failed, elsewhere };
progress connect_progress(int fd) noexcept;
// Begins one on a socket that the program has only bound; 0, or an errno. Under the shard's syscall_alarm
// (carrier::begin_connect) where somebody else has the socket: EINTR then means that it was made blocking in between,
// and that the kernel goes on with it.
int begin_connect(int fd, const base::address& to) noexcept;

// Ends the connection with RST and leaves a socket that can connect anew.
void disconnect_tcp(int fd) noexcept;
// Orderly: FIN after what was sent, even if another process still holds the socket.
void close_tcp(base::unique_fd& fd) noexcept;
// RST now, even if another process still holds the socket.
void reset_tcp(base::unique_fd& fd) noexcept;

}  // namespace vmsgr::conn
