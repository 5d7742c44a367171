// One connection: a program's conduit on one side, a wire (a kernel TCP socket, or a channel of a trunk) on the other,
// on one shard for its whole life. Two fibers carry the bytes: the write loop from ring 0 to the wire, the read loop
// from the wire to ring 1, both in place. vm_conn.cc has how it begins and ends, vm_conn_loops.cc how bytes move and
// who wakes whom.
//
// Owner: the shard's carrier, by lw_shared_ptr until run() is done. All calls on that shard.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include <seastar/core/future.hh>
#include <seastar/core/lowres_clock.hh>
#include <seastar/core/shared_ptr.hh>
#include <seastar/core/timer.hh>

#include "conn/arenas.hh"
#include "conn/budget.hh"
#include "conn/counters.hh"
#include "conn/program.hh"
#include "conn/wire.hh"
#include "shm/bell.hh"
#include "shm/wake.hh"
#include "ssx/event_set.hh"
#include "ssx/ring_poller.hh"
#include "ssx/wake_point.hh"

namespace vmsgr::net {

class carrier;

// A connection's share of every limit. `owner` goes last, as a lease lies in it.
struct places {
    program_ptr owner;
    lease total, of_session, fds;
};

enum class conn_state : uint8_t { connecting, established, closing };
enum class conn_path : uint8_t { direct, local, trunk };

// What `status` shows of a connection.
struct conn_info {
    uint64_t id, session;
    pid_t pid;
    int fd;
    conn_role role;
    base::address local, peer;
    std::string route;
    unsigned shard;
    conn_state state;
    uint64_t bytes_in, bytes_out;  // as the program sees them
    double opened_s;               // Unix time
    conn_path path = conn_path::direct;
};

class vm_conn final : public ssx::ring_waiter {
public:
    struct parts {
        conn_role role = conn_role::client;
        places place;
        std::string route;
        int program_fd = -1;
        base::address peer;  // as the job says, for a client
        base::unique_fd tcp, bell;  // over a trunk, tcp keeps the program's port and options
        memory_slot memory;
        shm::conduit conduit;            // a view of it
        uint32_t shown = shm::no_slot;   // in the owner's connected list; none: it is shown by the constructor
        std::unique_ptr<wire> far;  // none: tcp itself
    };

private:
    enum class waits : uint8_t { nothing, wire, ring };
    enum class next : uint8_t { again, wire, ring, done };
    // A direction's fiber, as events and the poller see it.
    struct direction {
        ssx::wake_point point;
        waits on = waits::nothing;
        bool done = false;
        void wake() noexcept {
            on = waits::nothing;
            point.wake();
        }
    };
    struct wire_sink final : wire_user {
        vm_conn& conn;
        explicit wire_sink(vm_conn& c) noexcept : conn(c) {}
        void on_events(uint32_t events) noexcept override { conn.on_wire(events); }
        bool on_bytes(std::span<const std::byte> bytes) noexcept override { return conn.on_bytes(bytes); }
        void on_bytes_end() noexcept override { conn.on_bytes_end(); }
    };
    struct bell_sink final : ssx::event_sink {
        vm_conn& conn;
        explicit bell_sink(vm_conn& c) noexcept : conn(c) {}
        void on_events(uint32_t events) noexcept override { conn.on_bell(events); }
    };

    carrier& _carrier;
    parts _p;
    const uint64_t _id;
    shm::bell _bell;
    shm::rx_state _rx_state;
    shm::tx_state _tx_state;
    shm::ring_receiver _rx;
    shm::ring_sender _tx;

    conn_state _state;
    direction _out, _in;
    bool _over = false;             // both fibers leave
    bool _reset_wire = false;        // ... and the wire ends with a reset
    bool _program_left = false;     // the last holder of its descriptor is gone
    bool _program_shut_all = false; // shutdown(SHUT_RDWR): flush, then end
    bool _program_shut_out = false; // its end of the doorbell sends no more
    bool _fin_to_program = false;
    bool _connect_writable = false;
    bool _broken = false;           // the program is shown an error
    bool _end_is_error = false;     // the socket's error was taken by a send: reading shows a false end
    bool _recalled = false;         // the program has its kernel socket back: nothing is done to it any more
    bool _stopping = false;         // the daemon ends: flush, then end
    bool _wire_may_end = false;      // FIN, error or urgent data: a short read is not yet the last one

    uint64_t _bytes_in = 0, _bytes_out = 0;
    uint64_t _bytes_out_checked = 0;
    uint32_t _slot = shm::no_slot;
    base::address _local, _peer;
    double _opened_s;

    wire_sink _wire_sink{*this};
    std::unique_ptr<wire> _wire;
    bell_sink _bell_sink{*this};
    ssx::event_set::registration _bell_events;
    seastar::timer<seastar::lowres_clock> _progress_timer;

public:
    vm_conn(carrier& c, uint64_t id, conn_state state, parts p);
    ~vm_conn();

    uint64_t id() const noexcept { return _id; }
    uint32_t slot() const noexcept { return _slot; }
    const base::address& local() const noexcept { return _local; }
    const base::address& peer() const noexcept { return _peer; }
    int tcp_fd() const noexcept { return _p.tcp.get(); }
    // The program's end of this connection's doorbell, by the kernel's word: who shows it holds the connection.
    bool is_shown_by(int descriptor) noexcept;
    conn_info info() const;

    // Done when nothing of the connection is left but this object.
    seastar::future<> run();
    // A limit or a rule says no: instead of run().
    void refuse(int err) noexcept;
    // What the program has sent leaves, then the connection ends; the program sees ECONNRESET.
    void stop() noexcept;
    // No more waiting.
    void abort() noexcept;

    // ring_waiter
    bool rings_ready() noexcept override;
    void wake_ring_waits() noexcept override;
    bool park() noexcept override;

private:
    // Beginning and end (vm_conn.cc).
    bool watch_bell() noexcept;
    bool watch_wire() noexcept;
    bool take_direct_way() noexcept;
    seastar::future<int> connected();
    void established() noexcept;
    void tell_failed(int err) noexcept;
    void on_hang_up() noexcept;
    bool program_left_unread() noexcept;
    void watch_progress() noexcept;
    void on_progress_timer() noexcept;
    void end() noexcept;
    void end_with_reset() noexcept;
    void fail(int err) noexcept;
    void break_rules(fault why) noexcept;
    bool recalled() noexcept;
    void finish() noexcept;

    // Moving bytes (vm_conn_loops.cc).
    void on_wire(uint32_t events) noexcept;
    bool on_bytes(std::span<const std::byte> bytes) noexcept;
    void on_bytes_end() noexcept;
    void add_received(size_t n) noexcept;
    void on_bell(uint32_t events) noexcept;
    void check_doorbell_bytes() noexcept;
    seastar::future<> write_loop();
    seastar::future<> read_loop();
    seastar::future<> wait_on(direction& d, waits what);
    next pump_out() noexcept;
    next pump_in() noexcept;
    void sent_all() noexcept;
    void received_all() noexcept;
};

using conn_ptr = seastar::lw_shared_ptr<vm_conn>;

}  // namespace vmsgr::net
