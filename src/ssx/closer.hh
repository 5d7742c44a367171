// Closes what strangers sent, on threads of its own. A close may wait for as long as the sender likes: a socket that
// lingers, a socket in which others lie unread, a file of a file system that the sender runs himself.
//
// Sockets and memory end soon: a socket stops lingering first, and where its sender was faster the close is interrupted
// after a moment. Anything else may wait without end; it has other threads, of which a user gets one at a time.
//
// One for the daemon. close() from any shard; it waits for nobody and allocates nothing.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/unique_fd.hh"

namespace vmsgr::ssx {

// How much of one sender's waits to be closed. Outlives what it counts.
struct closing_account {
    std::atomic<uint32_t> waiting{0};
    std::atomic<bool> has_thread{false};  // for what may wait without end
};

class closer {
    struct shared;
    shared* const _shared;  // never freed: a thread may be held up in a close until the process ends

public:
    // waiting_max: descriptors of all senders together. Throws std::system_error when there is no thread.
    explicit closer(uint32_t waiting_max);
    closer(const closer&) = delete;

    // False: as many as may wait do so, and fd is as it was.
    bool close(base::unique_fd& fd, closing_account& sender) noexcept;

    // A close of it ends soon, whatever its sender does meanwhile, but for SO_LINGER. Does not wait.
    static bool ends_soon(int fd) noexcept;

    uint32_t waiting() const noexcept;
    uint64_t closed() const noexcept;
};

}  // namespace vmsgr::ssx
