// The listeners of a shard. sharded<listeners>; each listening socket lives on one shard.
#pragma once

#include <memory>
#include <optional>
#include <unordered_map>

#include <seastar/core/abort_source.hh>
#include <seastar/core/gate.hh>
#include <seastar/core/sharded.hh>

#include "conn/carrier.hh"
#include "local/registry.hh"

namespace vmsgr::local {

struct listen_request {
    conn::program_ptr owner;
    conn::lease total, fds;
    std::string route;
    base::unique_fd tcp;
    int program_fd = -1;  // the program's number for it, to be shown
    bool local = true;  // programs of this host may dial it
    bool only_local = false;  // TCP connections are not carried but passed on
    uint32_t backlog = 0;
};

// What the program gets for its listening socket, or why not.
struct listen_answer {
    int status = 0;  // an errno
    uint64_t id = 0;
    base::unique_fd door, lifeline;
    proto::secret word{};
    std::optional<conn::violation> broken;
};

struct listener_info {
    uint64_t id;
    uint64_t session;
    pid_t pid;
    int fd;
    base::address address;
    unsigned shards;  // over which its connections spread
    uint64_t accepted;  // by the daemon; who dials by himself is not counted here
    uid_t uid;  // of the program
};

class listener;

class listeners {
    friend class listener;
    seastar::sharded<conn::carrier>& _carriers;
    conn::budget& _budget;
    registry& _registry;
    const std::string _doors;  // the folder
    std::unordered_map<uint64_t, std::unique_ptr<listener>> _all;
    seastar::gate _gate;
    seastar::abort_source _abort;
    unsigned _next_shard;
    bool _rests = false;
    unsigned _under_way = 0;  // accepted, and not in the door yet
    uint64_t _ids = 0;

    seastar::future<> run(listener& l, uint64_t id);

public:
    listeners(seastar::sharded<conn::carrier>& carriers, conn::budget& b, registry& r, std::string doors);
    ~listeners();
    // Closes our copies of the sockets; the programs keep theirs, and are knocked up.
    seastar::future<> stop();

    // The same for those that are there now; new ones may come.
    void give_back() noexcept;

    listen_answer begin(listen_request r);
    // A listener of this shard that an earlier worker had, then all its lifelines, which go by themselves. Null: it
    // goes on, and has taken the descriptor; else why not.
    const char* take_over(keeper::entry& e, listen_request& r);
    const char* take_over_lifeline(keeper::entry& e, base::unique_fd& fd);
    void lifelines_are_taken_over();
    // Nothing is accepted any more: another worker will. What was accepted is brought to its door still.
    void rest() noexcept;
    unsigned under_way() const noexcept { return _under_way; }
    // Programs do not find it any more.
    void unlist(uint64_t id) noexcept;
    // For a connection that comes over a trunk: its share of the limits, and where it is to be brought.
    struct reserved {
        std::optional<conn::places> place;
        std::string route;
        conn::door_target door;
        bool no_room = false;  // else: the listener has closed
    };
    reserved reserve(uint64_t id);
    // For another program that serves it, and shows the door: the listening socket, and a lifeline of its own. None: it
    // has closed, or there is no descriptor for it.
    struct shared {
        base::unique_fd tcp, lifeline;
    };
    shared share(uint64_t id, uint64_t door_cookie) noexcept;
    std::vector<listener_info> list() const;

private:
    void start(std::unique_ptr<listener> l, uint64_t id);
    conn::carrier& local() noexcept { return _carriers.local(); }
    unsigned next_shard() noexcept;
};

}  // namespace vmsgr::local
