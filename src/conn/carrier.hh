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

#include "conn/local_conns.hh"
#include "conn/vm_conn.hh"
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
    base::unique_fd memory, bell, page;  // the program's
    uint32_t flags = 0;                  // proto::accepted_flag
    lease fds;                           // of a local one, on its way
};

class carrier : public seastar::peering_sharded_service<carrier> {
    const carrier_settings _settings;
    ssx::event_set _events;
    ssx::ring_poller _rings;
    ssx::syscall_alarm _alarm;
    counters _count;
    std::map<uint64_t, conn_ptr> _conns;  // by id, so that they can be listed piece by piece
    std::unordered_map<uint64_t, vm_conn*> _by_key;
    local_conns _locals;
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
    local_conns& locals() noexcept { return _locals; }
    bool knows(uint64_t key) const noexcept { return _by_key.contains(key) || _locals.knows(key); }

    // Carries p.tcp, which is connecting or connected; refusal: an errno that the program gets at once instead.
    void connect(vm_conn::parts p, int refusal);
    // Makes a conduit for an accepted socket and begins to carry it. Nothing, and the socket reset, when there is
    // no memory or descriptor for it. far: over a trunk, and tcp is a socket of its family for the program's options.
    std::optional<delivery> accept(base::unique_fd tcp, places place, std::string route,
                                   std::unique_ptr<far_side> far = nullptr);

    // Keeps what belongs to a connection between two programs; what the accepting one is to be told. `c` lacks its id
    // and, where it is not one again, end 1's key and page. Nothing: no memory or descriptor. keep false: there is no
    // room for it, and the two programs have it alone: nobody holds its port, or knows its memory for an heir.
    std::optional<delivery> join(local_conn c, base::unique_fd bell, bool keep);

    // Copies of a connection's socket, or of its memory and end page; none if no such connection is here.
    enum class part { socket, memory };
    using lent = std::array<base::unique_fd, 2>;
    lent borrow(uint64_t key, part what) noexcept;
    // Up to `limit` connections with ids beyond `after`, in their order.
    std::vector<conn_info> list(uint64_t after, size_t limit) const;

private:
    void run(conn_ptr c);
    uint64_t next_id() noexcept;
    uint64_t new_key();
};

}  // namespace vmsgr::net
