// What earlier workers have left in the keeper's hands (docs/KEEPER.md), given to those who go on with it: trunks,
// connections to the carriers, listeners and their lifelines, sessions. In this order, each once, as soon as its part
// of the daemon stands. What cannot go on ends as if its worker had not been kept: connections are reset, listeners
// come to the kernel, programs attach again. Shard 0 only.
#pragma once

#include <map>
#include <span>
#include <vector>

#include <seastar/core/sharded.hh>

#include "attach/control_server.hh"
#include "keeper/keeper.hh"
#include "trunks/service.hh"

namespace vmsgr::daemon {

class inheritance {
    struct item {
        keeper::entry* entry;
        unsigned shard;
        conn::kept_descriptors fds;
        conn::program_ptr owner;
        const char* why_not = nullptr;
    };
    const conf::daemon_config& _config;
    conn::budget& _budget;
    seastar::sharded<conn::carrier>& _carriers;
    std::map<keeper::entry_kind, std::vector<item>> _items;
    std::map<uint64_t, conn::program_ptr> _programs;  // by session
    const bool _lists_again;
    size_t _go_on = 0, _end = 0;  // of the kind that is at work

public:
    // at.suspect: nothing goes on.
    inheritance(const keeper::seat& at, std::span<const keeper::kept> held, const conf::daemon_config& config,
                conn::budget& all, conn::users& users, seastar::sharded<conn::carrier>& carriers);

    // Trunks come first, as connections claim their channels.
    seastar::future<> connections(seastar::sharded<trunks::service>& trunks);
    // Then the registry has nothing else, and the other doors of the folder are knocked at and gone.
    seastar::future<> listeners(seastar::sharded<local::listeners>& to, local::registry& r, const std::string& doors);
    seastar::future<> sessions(attach::control_server& to);

private:
    conn::program_ptr program_of(const keeper::entry& e, conn::users& users);
    void begin_session(item& session, conn::users& users);
    std::vector<item>& of(keeper::entry_kind k) { return _items[k]; }
    seastar::future<const char*> listener(item& i, seastar::sharded<local::listeners>& to);
    seastar::future<const char*> lifeline(item& i, seastar::sharded<local::listeners>& to);
    seastar::future<> end(item& i, const char* why);
    void report(const char* what);
};

}  // namespace vmsgr::daemon
