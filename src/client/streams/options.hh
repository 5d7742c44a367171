// Socket options of a connection that has no kernel socket behind it. What the program sets is tried on a fresh TCP
// socket, whose verdict is the answer, and remembered; what it asks for is asked of a fresh socket on which everything
// remembered was set again. So values, defaults, lengths and errors are the kernel's own, without a table of options.
//
// Plain values in memory that forks share. Any thread; a race of two setsockopt() on one socket leaves one of them.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <span>

#include "base/sockets.hh"

namespace vmsgr::client {

inline constexpr uint32_t options_max = 24;
inline constexpr uint32_t option_bytes_max = 20;

struct option_set {
    int32_t level;
    int32_t name;
    uint32_t bytes;
    std::array<uint8_t, option_bytes_max> value;
};

// One of those of base::asked_buffers.
bool sizes_buffers(int level, int name) noexcept;

class option_list {
    uint32_t _count = 0;
    std::array<option_set, options_max> _sets{};

    std::span<const option_set> sets() const noexcept;
    uint32_t index_of(int level, int name) const noexcept;  // sets().size(): never set

    void keep_linger_time(const linger& before) noexcept;

public:
    // Longer values, and more than options_max of them, are forgotten.
    void note(int level, int name, const void* value, socklen_t bytes) noexcept;
    void forget(int level, int name) noexcept;
    // False: never set.
    bool find(int level, int name, void* value, socklen_t& bytes) const noexcept;
    // SO_SNDBUF and its kin were set (base::asked_buffers).
    bool has_buffers() const noexcept;
    base::asked_buffers asked_buffers(int family) const noexcept;
    // As the system calls of these names do on a connected TCP socket of this family.
    int set(int family, int level, int name, const void* value, socklen_t bytes) noexcept;
    int get(int family, int level, int name, void* value, socklen_t* bytes) const noexcept;
    // Sets everything on a socket; move_to forgets it then.
    void apply(int socket) const noexcept;
    void move_to(int socket) noexcept;
};

}  // namespace vmsgr::client
