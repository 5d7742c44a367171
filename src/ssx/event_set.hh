// Readiness of many descriptors for one shard: an epoll instance of our own, in which each descriptor is
// registered once, edge-triggered, for its whole life. Seastar watches that one epoll descriptor. So a wait costs
// no epoll_ctl, an idle connection costs nothing, and no linux-aio slot is taken per descriptor.
//
// Owner: one per shard. All calls on that shard.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <seastar/core/future.hh>
#include <seastar/core/internal/pollable_fd.hh>

#include "base/error.hh"
#include "base/unique_fd.hh"

namespace vmsgr::ssx {

// Gets EPOLL* bits. Edges: who is told must look until EAGAIN, or remember what it was told.
class event_sink {
public:
    virtual void on_events(uint32_t events) noexcept = 0;

protected:
    ~event_sink() = default;
};

class event_set {
    struct slot {
        event_sink* sink = nullptr;
        uint32_t generation = 0;
    };
    // A pollable_fd_state owns the epoll descriptor; _epoll_fd is its number.
    std::optional<seastar::pollable_fd> _watch;
    int _epoll_fd = -1;
    base::unique_fd _stop_event;  // an eventfd in the set, so that the fiber can be woken for good
    std::vector<slot> _slots;
    std::vector<uint32_t> _free;
    bool _stopping = false;
    uint64_t _turn = 0;
    std::optional<seastar::future<>> _fiber;

public:
    // Takes a descriptor out of the set when it ends, which must be before that descriptor is closed: another
    // process may hold it open too, and its events would then go on.
    class registration {
        event_set* _set = nullptr;
        uint32_t _index = 0;
        int _fd = -1;
        friend class event_set;
        registration(event_set* set, uint32_t index, int fd) noexcept : _set(set), _index(index), _fd(fd) {}

    public:
        registration() noexcept = default;
        registration(registration&& o) noexcept : _set(std::exchange(o._set, nullptr)), _index(o._index), _fd(o._fd) {}
        registration& operator=(registration&& o) noexcept {
            if (this != &o) {
                reset();
                _set = std::exchange(o._set, nullptr);
                _index = o._index;
                _fd = o._fd;
            }
            return *this;
        }
        ~registration() { reset(); }
        void reset() noexcept;
        explicit operator bool() const noexcept { return _set != nullptr; }
    };

    event_set() = default;
    event_set(const event_set&) = delete;
    // Throws std::system_error when the kernel gives no epoll instance.
    void start();
    // Safe after a failed or missing start().
    seastar::future<> stop();

    // A number for each look at the kernel. What was done in the same turn may have been done after the look.
    uint64_t turn() const noexcept { return _turn; }
    // Current readiness is reported as a first edge.
    base::result<registration> add(int fd, event_sink& sink);

    // Dispatches what is ready now, up to one batch. True if there may be more.
    bool poll() noexcept;

private:
    void remove(uint32_t index, int fd) noexcept;
    seastar::future<> watch();
};

}  // namespace vmsgr::ssx
