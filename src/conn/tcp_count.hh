// What went through a TCP socket, as the kernel has counted it: exact whoever moved the bytes, and whoever died then.
#pragma once

#include <cstdint>
#include <expected>

namespace vmsgr::conn {

struct tcp_count {
    uint64_t written = 0;  // taken by the kernel; less what is counted at the connection's begin
    uint64_t read = 0;     // given by the kernel, as above
};
// The text says why it is not known. The caller alone writes and reads meanwhile. An urgent byte that waits and was not
// read hides what lies behind it, unless SO_OOBINLINE is set.
std::expected<tcp_count, const char*> count_tcp(int socket) noexcept;

}  // namespace vmsgr::conn
