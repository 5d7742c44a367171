// Accepts attaching processes on the control socket and keeps their sessions. Shard 0 only.
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include <seastar/core/abort_source.hh>
#include <seastar/core/gate.hh>
#include <seastar/core/lowres_clock.hh>
#include <seastar/core/sharded.hh>
#include <seastar/core/timer.hh>
#include <seastar/util/log.hh>

#include "attach/access.hh"
#include "attach/control_socket.hh"
#include "attach/connector.hh"
#include "attach/deposits.hh"
#include "attach/document.hh"
#include "attach/session_rows.hh"
#include "base/sockets.hh"
#include "local/listeners.hh"

namespace vmsgr::attach {

// info: start and stop. debug: sessions. warn: rules broken, rate-limited.
extern seastar::logger log;

class session;

// What sessions work with. All of it outlives the control_server.
struct control_deps {
    const conf::daemon_config& config;
    conn::budget& budget;
    conn::users& users;
    seastar::sharded<conn::carrier>& carriers;
    seastar::sharded<connector>& connectors;
    seastar::sharded<local::listeners>& listeners;
    local::registry& registry;
    shm::stats_page& page;
    std::atomic<uint64_t>& sessions;  // numbers given, by workers before this one too
    const std::atomic<uint32_t>& drains_since_s;  // 0: it does not
    std::function<seastar::future<>(viewer, bool brief, document_writer&)> status;  // the JSON document
    std::function<seastar::future<>(bool)> drain;
};

struct session_info {
    uint64_t id;
    pid_t pid;
    uid_t uid;
    std::string program;
    uint64_t connections;
    uint64_t connects_routed, listens_routed, fell_back, faults;  // by the program's own account
    proto::plain_cause left_to_kernel;                            // as above
};

class control_server final : ssx::event_sink {
    control_deps _deps;
    control_socket& _socket;
    ssx::event_set::registration _events;
    ssx::wake_point _point;
    std::unordered_map<session*, std::unique_ptr<session>> _sessions;
    std::map<uint64_t, session*> _programs;  // of these, the attached ones, by the numbers of their sessions
    deposits _kept;
    session_rows _rows;
    const conn::user_ptr _strangers;  // whoever was not let in
    uint64_t _bytes_local_past = 0;  // of sessions that have ended
    uint64_t _locals_past = 0;
    seastar::gate _gate;
    seastar::abort_source _abort;
    unsigned _next_shard = 0;
    bool _rests = false;
    unsigned _requests = 0;  // under way
    seastar::timer<seastar::lowres_clock> _room_timer;
    std::list<session*> _greeting;  // who have not said yet who they are, the oldest first

public:
    control_server(control_deps deps, control_socket& socket);
    ~control_server();
    // A session that an earlier worker has greeted. False: its program has to attach again, and sock is as it was.
    bool take_over(keeper::entry& e, base::unique_fd& sock, conn::program_ptr p);
    void start();
    // No more sessions and no more jobs; connections that stand go on until their carriers stop.
    seastar::future<> stop();

    // Nobody is let in and no request is taken any more: another worker will.
    void rest() noexcept;
    bool rests() const noexcept { return _rests; }
    // Requests that were taken and not answered, and clients that have yet to say who they are.
    unsigned under_way() const noexcept { return _requests + unsigned(_greeting.size()); }
    // A request is under way as long as it lives.
    class request {
        control_server& _of;

    public:
        explicit request(control_server& s) noexcept : _of(s) { ++_of._requests; }
        ~request() { --_of._requests; }
        request(const request&) = delete;
    };

    control_deps& deps() noexcept { return _deps; }
    deposits& kept() noexcept { return _kept; }
    // Closes what he sent.
    void let_go(base::unique_fd& fd, conn::user& sender) noexcept { _deps.carriers.local().let_go(fd, sender); }
    // The same with a client's socket, which has ended.
    void let_go_of_client(base::unique_fd& sock, conn::user& sender) noexcept {
        if (base::shut_down_empty(sock.get())) {
            sock.reset();
        } else {
            let_go(sock, sender);
        }
    }
    // Until not too much of his waits to be closed already.
    seastar::future<> room_to_close(const conn::user& sender);
    // To all programs, from time to time, until each user has room for a connection.
    void show_room_again() noexcept;
    bool stops() const noexcept { return _abort.abort_requested(); }
    // Nothing new is carried.
    bool drains() const noexcept { return _deps.drains_since_s != 0; }
    void program_attached(session& s);
    // What it left for others stays for a moment: who inherited from it has yet to ask.
    void program_ended(conn::program& p) noexcept;
    conn::counters& count() noexcept { return _deps.carriers.local().count(); }
    uint64_t next_session_id() noexcept { return _deps.sessions.fetch_add(1, std::memory_order_relaxed) + 1; }
    unsigned next_shard() noexcept;
    // A session's handshake is over, however it went.
    void greeted(session* s) noexcept;
    // Up to `limit` with numbers beyond `after`, in their order.
    std::vector<session_info> list(uint64_t after, size_t limit) const;
    // Local connections as their programs show them, an end each. A call looks at no more than a few entries and
    // sessions, and moves the cursor behind them; at its end, session is ~0.
    struct local_row {
        uint64_t session;
        pid_t pid;
        int fd;
        bool server;
        base::address local, peer;
        std::string route;
        uint64_t bytes_in, bytes_out;
        double opened_s;
        uid_t uid;  // of the program
        uint32_t plain;  // shm::local_entry's
    };
    struct local_cursor {
        uint64_t session = 0;
        uint32_t entry = 0;
    };
    std::vector<local_row> list_locals(local_cursor& from) const;
    // Without the bytes of those that are open, which list_locals() shows.
    struct local_totals {
        uint64_t bytes = 0, opened = 0, turned_away = 0;
    };
    local_totals count_locals() const;
    // Into the page of counters, for each program: what of its own is open, as list_locals() has shown it.
    struct open_locals {
        uint64_t connections = 0, bytes_out = 0;
    };
    void show_locals(const std::unordered_map<uint64_t, open_locals>& of_session);

private:
    void keep_for_heirs(uint64_t session) noexcept;
    void on_events(uint32_t) noexcept override { _point.wake(); }
    seastar::future<> accept_loop();
    void begin_session(base::unique_fd& fd, const peer_identity& who);
    bool may_greet(const conn::user& newcomer);
};

}  // namespace vmsgr::attach
