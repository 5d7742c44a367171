// One connection: a program's conduit on one side, a far side (a kernel TCP socket, or a channel of a trunk) on the
// other, on one shard for its whole life. Two fibers move the bytes: the write loop from ring 0 to the far side, the
// read loop from the far side to ring 1, both in place (conn/pump.hh). What each event means is the table's to say
// (life/connection.hh); step() asks it and does what it answers. vm_conn.cc has how a connection begins and ends,
// vm_conn_loops.cc how bytes move and who wakes whom, vm_conn_shown.cc what others see of it, vm_conn_kept.cc how it
// outlives the worker, vm_conn_back.cc how it becomes its program's own socket again.
//
// Owner: the shard's carrier, by lw_shared_ptr until run() is done. All calls on that shard.
#pragma once

#include <chrono>
#include <expected>
#include <memory>
#include <optional>
#include <string>

#include <seastar/core/future.hh>
#include <seastar/core/lowres_clock.hh>
#include <seastar/core/shared_ptr.hh>
#include <seastar/core/timer.hh>

#include "conn/arenas.hh"
#include "conn/board.hh"
#include "conn/budget.hh"
#include "conn/counters.hh"
#include "conn/end_mark.hh"
#include "conn/far.hh"
#include "conn/going_back.hh"
#include "conn/plain.hh"
#include "conn/program.hh"
#include "conn/pump.hh"
#include "keeper/ledger.hh"
#include "life/connection.hh"
#include "proto/plain_cause.hh"
#include "shm/end.hh"
#include "ssx/event_set.hh"
#include "ssx/ring_poller.hh"
#include "ssx/wake_point.hh"

namespace vmsgr::conn {

class carrier;

// A connection's share of every limit. `owner` goes last, as what the leases are of lies in it.
struct places {
    program_ptr owner;
    lease total, of_session, fds, memory;

    // For a program's connection with rings of this size. Nothing, or an errno.
    static std::expected<places, int> take(budget& all, program_ptr owner, uint32_t ring_bytes);
};

// Plain mode, for people.
struct plain_info {
    bool on = false;
    bool moved = false;
    proto::plain_cause why = proto::plain_cause::none;  // as the program says
    uint64_t bell_inode = 0;  // of the socket whose other end an alien has
};

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
    double opened_s;  // Unix time
    conn_path path = conn_path::direct;
    uid_t uid = 0;  // of the program
    bool encrypted = false;  // on its way to another host
    std::string peer_identity{};  // over a trunk: who the peer daemon has proved to be
    plain_info plain{};
    stays why_it_stays = stays::no;
    uint32_t ring_bytes = 0;  // of each of the two
    uint64_t unread_bytes = 0, unsent_bytes = 0;  // in them: what the program has not read, what has not left
    uint64_t program_stalls_us = 0, network_stalls_us = 0;  // 0: no stall
};

// What is known of a connection that an earlier worker carried.
struct restored {
    life::connection life;
    uint64_t sent = 0, received = 0;  // of ring 0 and into ring 1, from their beginning
    keeper::entry* entry = nullptr;
    double opened_s = 0;
    bool gone = false;  // its program has its socket back, or was told that it may
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
        end_mark mark{};  // of tcp, where that is the far side
        memory_slot memory;
        base::unique_fd arena;  // of memory that the program has made; until it is handed over
        shm::conduit conduit;  // a view of it
        uint32_t shown = shm::no_slot;  // in the owner's connected list; none: it is shown by the constructor
        std::unique_ptr<far_side> far;  // none: tcp itself
        size_t received = 0;  // bytes that lie in ring 1 already
        std::optional<restored> from{};  // another worker carried it
    };

private:
    friend class pump<vm_conn>;
    enum class waits : uint8_t { nothing, far, ring };
    // A direction's fiber, as events and the poller see it.
    struct direction {
        ssx::wake_point point;
        waits on = waits::nothing;
        void wake() noexcept {
            on = waits::nothing;
            point.wake();
        }
    };
    struct far_events final : far_user {
        vm_conn& conn;
        explicit far_events(vm_conn& c) noexcept : conn(c) {}
        void on_events(uint32_t events) noexcept override { conn.on_far(events); }
        bool on_bytes(std::span<const std::byte> bytes, bool urgent) noexcept override {
            return conn._pump.take(bytes, urgent);
        }
        void on_batch_end() noexcept override { conn.on_batch_end(); }
    };
    struct bell_rights final : shm::rights_sink {
        vm_conn& conn;
        explicit bell_rights(vm_conn& c) noexcept : conn(c) {}
        void take(base::unique_fd right) noexcept override;
    };
    struct bell_events final : ssx::event_sink {
        vm_conn& conn;
        explicit bell_events(vm_conn& c) noexcept : conn(c) {}
        void on_events(uint32_t events) noexcept override { conn.on_bell(events); }
    };

    carrier& _carrier;
    parts _p;
    const uint64_t _id;
    bell_rights _bell_rights{*this};
    shm::rx_state _rx_state;
    shm::tx_state _tx_state;
    shm::end _near;

    life::connection _life;
    direction _out, _in;
    board::row_ptr _row;
    const uint16_t _route;  // its row, for what the connections of a route have done
    uint64_t _bytes_out_checked = 0;
    uint32_t _slot = shm::no_slot;
    base::address _local, _peer;
    double _opened_s;

    far_events _far_events{*this};
    std::unique_ptr<far_side> _far;
    std::unique_ptr<plain_end> _plain;  // the program's end is in plain mode
    bool _plain_hung_up = false;
    seastar::timer<seastar::lowres_clock> _lent_timer;
    bool _waits_for_program = false;  // all is over but the program's reading

    bell_events _bell_events{*this};
    ssx::event_set::registration _bell_watch;
    pump<vm_conn> _pump;
    seastar::timer<seastar::lowres_clock> _progress_timer;
    keeper::entry* _entry = nullptr;  // the keeper holds it
    going_back _back;
    bool _rests = false;

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
    // A copy of the socket. plain: as the program has set it, for a while.
    base::unique_fd lend(bool plain) noexcept;

    // Done when nothing of the connection is left but this object.
    seastar::future<> run();
    // A limit or a rule says no: instead of run().
    void refuse(int err) noexcept;
    // What the program has sent leaves, then the connection ends; the program sees ECONNRESET.
    void stop() noexcept;

    // To the keeper, if it is such a connection. False: not now.
    bool hand_over() noexcept;
    // Over a trunk whose session moves nothing any more: it is handed over, and changes nothing from now on. False: a
    // fiber is still at work, or it cannot be handed over.
    bool rest() noexcept;
    // It will not be.
    void stay_here() noexcept { _p.arena.reset(); }

    // The program is to have its socket back. Now and then, as long as that holds.
    void call_back(going_back::clock::time_point now) noexcept;
    void stay() noexcept;
    // It asks. 0: it is the kernel's, and lend() gives the socket; EAGAIN: not now.
    int go_back() noexcept;
    stays why_it_stays() const noexcept;

    // ring_waiter
    bool rings_ready() noexcept override;
    void wake_ring_waits() noexcept override;
    bool park() noexcept override;

private:
    // Beginning and end (vm_conn.cc).
    bool watch();
    bool watch_far();
    bool take_direct_way();
    seastar::future<int> connected();
    void established() noexcept;
    life::actions step(life::event e, int err = 0) noexcept;
    void give_back(int err) noexcept;
    void guard_end() noexcept;
    void on_hang_up() noexcept;
    seastar::future<> last_plain_bytes();
    void break_off(const std::exception_ptr& e) noexcept;
    void flush_and_judge() noexcept;
    bool program_left_unread() noexcept;
    void watch_progress() noexcept;
    void on_progress_timer() noexcept;
    void break_rules(fault why) noexcept;
    void report(fault why) noexcept;
    void let_go_of_far() noexcept;
    void let_go_of_bell() noexcept;
    void finish() noexcept;
    void show() noexcept;
    uint64_t bytes_in_ring(unsigned which) const noexcept;
    shm::stats_route_row& route_row() noexcept;
    plain_info plain_state() const;
    uint32_t program_flags() const noexcept;
    int program_fd() const noexcept;

    // Custody (vm_conn_kept.cc).
    void note_life() noexcept;
    bool give(uint64_t sent_base, uint64_t received_base) noexcept;
    void go_on_from(const restored& f) noexcept;
    void do_again() noexcept;
    seastar::future<> take_back();
    void leave_entry() noexcept;

    // Going back (vm_conn_back.cc).
    std::atomic<uint32_t>& own_flags() const noexcept;
    void ring_once() noexcept;
    bool pause_reading(bool& once) noexcept;
    void read_again() noexcept;
    bool is_quiet() noexcept;
    int not_now() noexcept;
    bool grant() noexcept;
    void leave_to_program() noexcept;
    void take_from_program() noexcept;

    // Moving bytes (vm_conn_loops.cc).
    void on_far(uint32_t events) noexcept;
    void on_batch_end() noexcept;
    void on_bell(uint32_t events) noexcept;
    void go_plain() noexcept;
    bool take_new_socket() noexcept;
    bool pull_plain() noexcept;
    bool push_plain() noexcept;
    void count(base::tally& own, base::tally& of_route, base::tally& all, size_t n) noexcept;
    seastar::future<> write_loop();
    seastar::future<> read_loop();
    seastar::future<> wait_on(direction& d, waits what);
    seastar::future<> stall_on(direction& d, waits what, base::tally& since_us, base::histogram& kept);

    // near_side, for the pump
    bool to_send(size_t& n) noexcept;
    shm::pieces data(size_t n) noexcept { return _near.in.data(n); }
    bool more_follows() noexcept;
    void sent(size_t n) noexcept;
    bool room(size_t& n) noexcept;
    bool room_at_all(size_t& n) noexcept;
    shm::pieces space(size_t n) noexcept { return _near.out.space(n); }
    void received(size_t n) noexcept;
    size_t before_urgent(size_t n) const noexcept;
    void received_urgent() noexcept;
    void wake_program() noexcept {
        if (_plain) {
            push_plain();
        } else {
            _near.sent();
        }
    }
    void credit_exceeded() noexcept { break_rules(fault::bad_ring_index); }  // only the program could take the room
};

using conn_ptr = seastar::lw_shared_ptr<vm_conn>;

}  // namespace vmsgr::conn
