// Accepts on listening sockets that programs bound themselves, and gives each connection to a shard in turn.
// sharded<listener>; each listening socket lives on one shard. A program that does not take its connections stops
// its own accepting only: the kernel's backlog fills then, as without us.
#pragma once

#include <memory>
#include <optional>
#include <unordered_map>

#include <seastar/core/abort_source.hh>
#include <seastar/core/gate.hh>
#include <seastar/core/sharded.hh>

#include "conn/carrier.hh"
#include "conn/requests.hh"
#include "local/registry.hh"

namespace vmsgr::net {

struct listen_request {
    uint64_t key = 0;
    program_ptr owner;
    lease total, fds;
    std::string route;
    base::unique_fd tcp, bell;
    bool local = true;  // programs of this daemon may come without TCP
    uint32_t backlog = 0;
};

struct listener_info {
    uint64_t session;
    pid_t pid;
    base::address address;
    unsigned shards;  // over which its connections spread
    uint64_t accepted;
};

class listener {
    class listening;
    seastar::sharded<carrier>& _carriers;
    budget& _budget;
    registry& _registry;
    std::unordered_map<listening*, std::unique_ptr<listening>> _all;
    seastar::gate _gate;
    seastar::abort_source _abort;
    unsigned _next_shard;

public:
    listener(seastar::sharded<carrier>& carriers, budget& b, registry& r);
    ~listener();
    // Closes our copies of the sockets; the programs keep theirs.
    seastar::future<> stop();

    std::optional<violation> begin(listen_request r);
    // A program of this daemon connects to the listener r.listener of this shard. r.place is its share.
    std::optional<violation> offer(connect_request r);
    // For a connection that comes over a trunk: its share of the limits and the route, then the connection itself.
    // None: the listener has closed, or its queue is full, or there is no room to carry it.
    struct reserved {
        std::optional<places> place;
        std::string route;
        bool queue_full = false, no_room = false;
    };
    reserved reserve(uint64_t key) noexcept;
    void deliver(uint64_t key, delivery d);
    // A duplicate of the listening socket; none where the key is not known here.
    base::unique_fd borrow(uint64_t key) const noexcept;
    std::vector<listener_info> list() const;

private:
    listening* find(uint64_t key) noexcept;
    carrier& local() noexcept { return _carriers.local(); }
    unsigned next_shard() noexcept;
};

}  // namespace vmsgr::net
