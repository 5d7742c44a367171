// What each user has of the daemon, whatever number of programs it is spread over: his share of every limit, and what
// of his waits to be closed. The daemon's own user and root have no limit of their own.
//
// `users` belongs to shard 0. A user's usages and account are used from every shard, by who holds the pointer.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <vector>

#include <seastar/core/semaphore.hh>

#include "conn/budget.hh"
#include "ssx/closer.hh"

namespace vmsgr::conn {

class user {
    static constexpr size_t documents_max = 4;
    std::atomic<int64_t> _suspended_until_ms{0};

public:
    const uid_t uid;
    budget of;
    ssx::closing_account closing;
    // Shard 0: documents under way to his clients, and clients that have not said yet who they are.
    seastar::semaphore documents{documents_max};
    unsigned greeting = 0;

    user(uid_t id, const amounts& limits) noexcept : uid(id), of(limits) {}

    // Connections that may still be made: the nearest limit counts.
    uint64_t room(uint64_t ring_bytes) const noexcept;

    // A call on a socket of his has waited, as he made it blocking in the middle of it: for a moment we make no such
    // call for him.
    void suspend() noexcept;
    bool is_suspended() const noexcept;
};
using user_ptr = std::shared_ptr<user>;

class users {
    amounts _limits;
    std::map<uid_t, user_ptr> _all;
    size_t _sweep_at = 64;

public:
    explicit users(const amounts& limits) : _limits(limits) {}
    ~users();

    const amounts& limits() const noexcept { return _limits; }
    // Whoever holds more keeps it.
    void set_limits(const amounts& limits) noexcept;
    user_ptr find(uid_t uid);
    std::vector<user_ptr> list() const;

private:
    void sweep();
};

}  // namespace vmsgr::conn
