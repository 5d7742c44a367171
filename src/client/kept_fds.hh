// Descriptors that the library keeps open in somebody else's program. The preload library moves them out of the
// program's way and hides them; libvmsgr leaves them where they are. `where` is the variable that holds the number:
// it may change while the descriptor is kept. Any thread.
#pragma once

#include <cstdint>

#include "base/unique_fd.hh"

namespace vmsgr::client {

struct fd_rules {
    void (*keep)(int* where) = nullptr;
    void (*drop)(int* where) = nullptr;  // closes it and sets -1
    // Program's numbers. Is this one still that stream's? And: it and its duplicates are this socket from now on.
    bool (*holds)(int fd, const void* stream) = nullptr;
    void (*replace)(int fd, int by) = nullptr;
    // If fd still is that stream's: the token that it owes is sent (streams/late_tokens.hh).
    void (*ring_late)(int fd, const void* stream) = nullptr;
    // If fd still is that stream's: stream::show_late_bytes.
    bool (*show_late_bytes)(int fd, const void* stream, int64_t min_age_ns) = nullptr;
    // Shows the local connection that fd is (stream::show_in).
    void (*show)(int fd, const void* stream) = nullptr;
    // The kernel's socket of a connection whose daemon wants to leave; or -errno (session::go_back).
    int (*ask_back)(int fd, uint64_t id) = nullptr;
    // fd and its duplicates are this socket from now on, and no connection of ours. first: how it waits is still to be
    // told to it.
    void (*become_socket)(int fd, int socket, bool first) = nullptr;
    // A new descriptor of ours must not fail for the program's limit, which is lifted meanwhile where `number`, a
    // recent one, is near it. False: it was not, and nothing is to be lowered.
    bool (*lift_limit)(int number) = nullptr;
    void (*lower_limit)() = nullptr;
};
// Once, before anything is kept. Without it they are plain descriptors.
void set_fd_rules(const fd_rules& r) noexcept;

void keep_fd(int* where) noexcept;
void drop_fd(int* where) noexcept;
bool still_holds(int fd, const void* stream) noexcept;
void replace_fd(int fd, int by) noexcept;
void ring_late(int fd, const void* stream) noexcept;
void show_connection(int fd, const void* stream) noexcept;
int ask_back(int fd, uint64_t id) noexcept;
void become_socket(int fd, int socket, bool first) noexcept;
// False: nothing is held back there.
bool show_late_bytes(int fd, const void* stream, int64_t min_age_ns) noexcept;

inline constexpr int near_any_limit = 0x7fffffff;

// While it lives new descriptors may be made at the program's limit. Nothing may wait meanwhile.
class room_for_fds {
    bool _lifted;

public:
    explicit room_for_fds(int number) noexcept;
    ~room_for_fds();
    room_for_fds(const room_for_fds&) = delete;
    room_for_fds& operator=(const room_for_fds&) = delete;
};

}  // namespace vmsgr::client
