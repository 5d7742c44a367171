// One attached process, or one that only asks questions. session.cc has the handshake and the loop over its
// messages, session_jobs.cc what each message does. Shard 0 only; owned by the control_server until run() is done.
//
// Breaking the rules ends this session and nothing else: connections and listeners that it made before go on until
// the program's own descriptors are closed.
#pragma once

#include <array>

#include <seastar/core/future.hh>
#include <seastar/core/lowres_clock.hh>
#include <seastar/core/timer.hh>

#include "attach/access.hh"
#include "attach/control_server.hh"
#include "proto/documents.hh"
#include "proto/requests.hh"

namespace vmsgr::attach {

// Answers that a client may leave unread: beyond it, no request of its is taken.
inline constexpr unsigned answers_unread_max = 16;

class session final : ssx::event_sink, shm::rights_sink {
    control_server& _server;
    const peer_identity _who;
    const conn::user_ptr _user;
    base::unique_fd _sock;
    conn::lease _fds;
    std::optional<conn::lease> _place, _map;  // among limits.sessions, once it has said who it is; of its segment
    conn::program_ptr _program;  // none before the handshake, and for queries
    keeper::entry* _entry = nullptr;  // the keeper holds it
    base::unique_fd _segment;         // until it does
    ssx::event_set::registration _events;
    ssx::wake_point _point;
    seastar::timer<> _hello_timer;
    seastar::timer<seastar::lowres_clock> _piece_timer;
    bool _closed = false;
    // Answers since the client had read all, and the descriptors in them.
    unsigned _unread = 0;
    std::array<conn::lease, answers_unread_max + 1> _in_flight;  // a request that fails may be answered twice

public:
    const seastar::lowres_clock::time_point began = seastar::lowres_clock::now();

    session(control_server& server, const peer_identity& who, conn::user_ptr user, conn::lease fds);
    ~session();
    void begin_with(base::unique_fd sock) noexcept;
    // Instead of that, one that an earlier worker has greeted. False: there is no room for it in the limits.
    bool go_on_with(keeper::entry& e, base::unique_fd& sock, conn::program_ptr p);

    seastar::future<> run();
    void close() noexcept;
    // To the keeper, if it has not got it yet.
    void rest() noexcept {
        if (_program && !_closed) {
            hand_over();
        }
    }
    const conn::program_ptr& program() const noexcept { return _program; }
    const peer_identity& who() const noexcept { return _who; }
    conn::user& user() const noexcept { return *_user; }
    // Shows the program how many connections its user may still make. True: none.
    bool show_room() noexcept;

private:
    void on_events(uint32_t) noexcept override { _point.wake(); }
    void take(base::unique_fd right) noexcept override {
        _server.let_go(right, *_user);
    }  // more than a message may have
    seastar::future<> greet();
    void on_hello(std::span<const std::byte> bytes);
    void welcome(const proto::hello_msg& hello);
    void refuse(int err, const std::string& text);
    void break_rules(conn::fault why, std::string_view text);
    void break_rules(const proto::broken_rule& rule);
    // Closes what came with a message and was not moved elsewhere.
    void drop(proto::received& got) noexcept;
    // The next message, or not when the session ended.
    seastar::future<bool> next(void* into, size_t bytes, proto::received& got);
    seastar::future<> serve();
    void begin_program();
    void end_program() noexcept;
    // To the keeper (session_kept.cc).
    void hand_over() noexcept;
    seastar::future<> take_back();
    void note_receiving() noexcept;
    void note_pending(const proto::request_msg& m) noexcept;
    void note_done() noexcept;
    // Until the client has read so much that any answer finds room.
    seastar::future<> room_for_answers();
    // The session is over; until nothing of it is in flight any more.
    seastar::future<> await_last_read();
    // What it has not read, in bytes of the kernel's memory.
    size_t unread_bytes() noexcept;

    void fail_for_memory(const proto::request_msg& m);
    seastar::future<> handle(proto::request_msg m, proto::received& got);
    seastar::future<> on_connect(proto::request_msg m, proto::received& got);
    seastar::future<> on_listen(proto::request_msg m, proto::received& got);
    void on_unlist(proto::received& got);
    void on_registry(const proto::request_msg& m);
    seastar::future<> on_borrow(proto::request_msg m, proto::received& got);
    seastar::future<> on_go_back(proto::request_msg m, proto::received& got);
    seastar::future<> on_drain(proto::request_msg m);
    void on_deposit(const proto::request_msg& m, proto::received& got);
    seastar::future<> on_adopt(proto::request_msg m, proto::received& got);
    void fail_for_descriptors(const proto::request_msg& m);
    void reply(const proto::request_msg& m, int status, std::span<const int> fds = {}, proto::reply_msg r = {});
    // Null where the limit on descriptors under way is met.
    std::optional<conn::lease> in_flight(size_t descriptors);
    int send_answer(const void* msg, size_t bytes, std::span<const int> fds, conn::lease flies) noexcept;
    class document;
    seastar::future<> send_document(const proto::request_msg& m);
    seastar::future<> send_piece(const proto::document_piece& piece);
    int admit(conn::connect_request& r);
    const proto::route* own_route(proto::role who, const base::address& a) const;
};

}  // namespace vmsgr::attach
