// What carries a shard's connections: its event set, its ring poller, its counters and the connections themselves.
// sharded<carrier>, started before everything else of net and stopped after it.
#pragma once

#include <chrono>
#include <map>
#include <unordered_map>
#include <vector>

#include <seastar/core/future.hh>
#include <seastar/core/gate.hh>
#include <seastar/core/sharded.hh>

#include "net/vm_conn.hh"
#include "ssx/syscall_alarm.hh"

namespace vmsgr::net {

struct carrier_settings {
    uint32_t ring_bytes = shm::ring_bytes_default;
    std::chrono::milliseconds orphan_limit{60000};
    std::chrono::milliseconds flush_limit{5000};
    std::chrono::microseconds poll_window{100};
};

// An accepted connection, ready to be told to the program.
struct delivery {
    uint64_t key = 0;
    uint32_t slot = shm::no_slot;
    base::address local, peer;
    base::unique_fd memory, bell;  // the program's
};

class carrier : public seastar::peering_sharded_service<carrier> {
    const carrier_settings _settings;
    ssx::event_set _events;
    ssx::ring_poller _rings;
    ssx::syscall_alarm _alarm;
    counters _count;
    std::map<uint64_t, conn_ptr> _conns;  // by id, so that they can be listed piece by piece
    std::unordered_map<uint64_t, vm_conn*> _by_key;
    seastar::gate _gate;
    uint64_t _ids = 0;

public:
    explicit carrier(carrier_settings s) : _settings(s) {}
    seastar::future<> start();
    // Flushes what programs have sent, up to the limit.
    seastar::future<> stop();

    const carrier_settings& settings() const noexcept { return _settings; }
    ssx::event_set& events() noexcept { return _events; }
    ssx::ring_poller& rings() noexcept { return _rings; }
    ssx::syscall_alarm& alarm() noexcept { return _alarm; }
    counters& count() noexcept { return _count; }
    size_t connections() const noexcept { return _conns.size(); }
    bool knows(uint64_t key) const noexcept { return _by_key.contains(key); }

    // Carries p.tcp, which is connecting or connected; refusal: an errno that the program gets at once instead.
    void connect(vm_conn::parts p, int refusal);
    // Makes a conduit for an accepted socket and begins to carry it. Nothing, and the socket reset, when there is
    // no memory or descriptor for it.
    std::optional<delivery> accept(base::unique_fd tcp, places place, std::string route);

    // A copy of the connection's socket or memory; none if no such connection is here.
    enum class part { socket, memory };
    base::unique_fd borrow(uint64_t key, part what) noexcept;
    // Up to `limit` connections with ids beyond `after`, in their order.
    std::vector<conn_info> list(uint64_t after, size_t limit) const;

private:
    void run(conn_ptr c);
    uint64_t next_id() noexcept;
    uint64_t new_key();
};

}  // namespace vmsgr::net
