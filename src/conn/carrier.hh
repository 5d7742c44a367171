// What carries a shard's connections: its event set, its ring poller, its counters and the connections themselves.
// sharded<carrier>, started before everything else of net and stopped after it.
#pragma once

#include <chrono>
#include <deque>
#include <list>
#include <map>
#include <vector>

#include <seastar/core/future.hh>
#include <seastar/core/gate.hh>
#include <seastar/core/sharded.hh>

#include "conn/board.hh"
#include "conn/custody.hh"
#include "conn/requests.hh"
#include "conn/vm_conn.hh"
#include "keeper/ledger_share.hh"
#include "ssx/syscall_alarm.hh"

namespace vmsgr::conn {

struct carrier_settings {
    uint32_t ring_bytes = shm::ring_bytes_default;
    std::chrono::milliseconds orphan_limit{60000};
    std::chrono::milliseconds flush_limit{5000};
    std::chrono::microseconds poll_window{100};
    int custody = -1;  // the channel to the keeper, which holds what outlives this worker; none: nothing
};

// A connection to be brought to a listener's door.
struct bring_request {
    base::unique_fd tcp;  // accepted; over a trunk a socket of its family, for the program's options
    base::address peer{};  // of tcp, unless `far` says it
    places place;
    std::string route;
    door_target door;
    std::unique_ptr<far_side> far;  // none: tcp itself
    bool with_data = false;  // TCP_DEFER_ACCEPT: accept() gives it together with its data
    end_mark mark{};  // of tcp
};
enum class brought : uint8_t {
    yes,
    queue_full,  // the request is as it was: bring it again
    refused,     // the door is closed, or there was no memory or descriptor: the socket was reset
};

class carrier : public seastar::peering_sharded_service<carrier> {
    carrier_settings _settings;
    ssx::event_set _events;
    ssx::ring_poller _rings;
    ssx::syscall_alarm _alarm;
    ssx::closer& _closer;
    board _board;
    std::map<uint64_t, conn_ptr> _conns;  // by id, so that they can be listed piece by piece
    arenas _arenas;
    seastar::timer<seastar::lowres_clock> _resting_timer;
    std::vector<base::unique_fd> _parting;  // see reset_when_sent()
    struct unheard_bell final : ssx::event_sink {
        carrier& here;
        base::unique_fd bell;
        places place;
        lease passes;
        ssx::event_set::registration events;
        explicit unheard_bell(carrier& c) noexcept : here(c) {}
        void on_events(uint32_t) noexcept override { here.look_at(*this); }
    };
    std::list<unheard_bell> _unheard;  // see close_when_heard()
    keeper::ledger_share _kept;
    struct young {
        seastar::lowres_clock::time_point at;
        uint64_t id;
        unsigned tries;
    };
    std::deque<young> _young;  // in the order of their times; to be handed over then
    struct closing {
        keeper::entry* entry = nullptr;
        kept_descriptors fds;
        user_ptr sender;
    };
    std::vector<closing> _closing;  // behind the keeper's copies
    seastar::timer<seastar::lowres_clock> _keeping_timer;
    seastar::timer<seastar::lowres_clock> _draining_timer;
    uint64_t _called_last = 0;  // up to here, of this round
    seastar::gate _gate;
    uint64_t _ids = 0;

public:
    // page: of the counters of all shards; it outlives this.
    carrier(carrier_settings s, ssx::closer& c, shm::stats_page& page)
        : _settings(s), _closer(c), _board(page.of(seastar::this_shard_id())) {}
    seastar::future<> start();
    // Flushes what programs have sent, up to the limit.
    seastar::future<> stop();

    // For what begins from now on.
    void set_limits(std::chrono::milliseconds orphan, std::chrono::milliseconds flush) noexcept {
        _settings.orphan_limit = orphan;
        _settings.flush_limit = flush;
    }
    const carrier_settings& settings() const noexcept { return _settings; }
    ssx::event_set& events() noexcept { return _events; }
    ssx::ring_poller& rings() noexcept { return _rings; }
    ssx::syscall_alarm& alarm() noexcept { return _alarm; }
    counters& count() noexcept { return _board.count(); }
    board& shown() noexcept { return _board; }
    // Closes what this user has sent, whatever it is; the caller waits for nobody.
    void let_go(base::unique_fd& fd, user& sender) noexcept;
    arenas& memory() noexcept { return _arenas; }
    bool knows(uint64_t id) const noexcept { return _conns.contains(id); }

    // Carries p.tcp, which is connecting or connected; refusal: an errno that the program gets at once instead.
    void connect(uint64_t id, vm_conn::parts p, int refusal);
    // Dials the listener's door, as a program would, and begins to carry the connection.
    brought bring(bring_request& r, budget& all);

    // A connection of this shard that an earlier worker carried. place: without an owner where none was to be had.
    // why: it is to be reset, and so says the log. far: over a trunk, if its channel goes on. False: it was reset.
    bool take_over(keeper::entry& e, kept_descriptors fds, program_ptr owner, places place, budget& all,
                   const char* why, std::unique_ptr<far_side> far);
    // Once what earlier workers have left (held) is known; until then nothing is handed over.
    void start_keeping(std::span<keeper::entry> ledger, std::span<const keeper::kept> held);
    // All that is young. How many are not ready for it, and are lost when the worker ends.
    unsigned hand_over_all() noexcept;
    // Connections over trunks, which move nothing any more. How many do not rest yet.
    unsigned rest() noexcept;
    keeper::ledger_share& kept() noexcept { return _kept; }
    // It is handed over when it is not young any more.
    void keep_later(uint64_t id) noexcept;
    // The keeper closes its copies before we close ours, so that closing ours means what it says, and closing the
    // keeper's never waits. False: it is late.
    seastar::future<bool> take_back(keeper::entry& e);
    // Closes these behind the keeper's copies. The entry is free then.
    void close_when_back(keeper::entry& e, kept_descriptors fds, user_ptr sender) noexcept;

    // kernel_socket's, on a socket that this user has as well.
    int begin_connect(int fd, const base::address& to, user& his) noexcept;

    // A copy of the socket of connection `id`, if `shown` is the program's end of it. plain: see vm_conn::lend.
    base::unique_fd borrow(uint64_t id, int shown, bool plain) noexcept;
    // All connections that can are to become the kernel's, or none any more.
    void drain(bool on) noexcept;
    // The program asks. status: an errno; EAGAIN: not now.
    struct gone_back {
        int status;
        base::unique_fd tcp;
    };
    gone_back go_back(uint64_t id, int shown) noexcept;
    // At the end of the daemon: RST, once the peer has what was sent, or at the limit.
    void reset_when_sent(base::unique_fd tcp) noexcept;
    // Our end of a dialled doorbell, of which there is no further use. What we have said there stays in flight as long
    // as nobody has received it, so it is closed then, and keeps what was reserved for it.
    void close_when_heard(base::unique_fd bell, places place, lease passes) noexcept;
    // Nobody has taken it out of the door's queue yet.
    static bool is_unheard(int bell) noexcept;
    // Up to `limit` connections with ids beyond `after`, in their order.
    std::vector<conn_info> list(uint64_t after, size_t limit) const;

private:
    void run(conn_ptr c);
    void keep();
    bool later(young y) noexcept;
    const char* go_on(keeper::entry& e, kept_descriptors& fds, program_ptr owner, places place, budget& all,
                      std::unique_ptr<far_side> far);
    void look_at(unheard_bell& b) noexcept;
    void call_back() noexcept;
    seastar::future<> part();
    uint64_t next_id() noexcept;
};

}  // namespace vmsgr::conn
