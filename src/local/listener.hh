// One listening socket that a program bound itself. Accepts, and brings each connection to the listener's door, on a
// shard in turn. A program that does not take its connections stops its own accepting only: the kernel's backlog
// fills then, as without us. Owner: the shard's listeners.
#pragma once

#include <list>

#include "local/doors.hh"
#include "local/listeners.hh"
#include "ssx/wake_point.hh"

namespace vmsgr::local {

class listener final : ssx::event_sink {
    listeners& _owner;
    listen_request _r;
    const uint64_t _id;
    door_place _door;
    proto::secret _word{};
    ssx::wake_point _point;
    bool _closed = false, _finished = false;
    uint64_t _accepted = 0;
    base::address _address;
    keeper::entry* _entry = nullptr;  // the keeper holds it
    // Our end of a pair with a program that serves the listener, and its forks. Theirs is shut down by the last of them
    // that closes the listener, and hangs up when they are gone.
    struct lifeline final : ssx::event_sink {
        listener& l;
        base::unique_fd fd;
        conn::lease place;
        ssx::event_set::registration events;
        keeper::entry* entry = nullptr;
        explicit lifeline(listener& x) noexcept : l(x) {}
        ~lifeline();
        void close() noexcept;  // its program may have sent something on it
        void on_events(uint32_t bits) noexcept override { l.on_lifeline(*this, bits); }
    };
    std::list<lifeline> _lifelines;
    seastar::future<> _heir = seastar::make_ready_future<>();  // await_heir()
    ssx::event_set::registration _tcp_events;

public:
    listener(listeners& owner, listen_request r, uint64_t id);
    ~listener();

    // Makes door and lifeline, and watches. 0, or an errno.
    int prepare(listen_answer& out);
    // Instead of that, goes on where an earlier worker was.
    int go_on(keeper::entry& e);
    // One of its lifelines. False: it has closed, or there is no room.
    bool go_on_with(keeper::entry& e, base::unique_fd& fd);
    // They were all of them.
    void has_its_lifelines();
    // To the keeper, what it does not hold yet.
    void hand_over() noexcept;
    seastar::future<> run();
    // Nothing is accepted from now on, and the port refuses if nobody else holds the socket. Once what was accepted is
    // in the door, run() ends. The lifeline goes last, so that a program which shut its end down can wait for our
    // hang-up, and then finds in the door all that we have accepted.
    void close() noexcept;

    listeners::reserved reserve();
    conn::door_target target() const;
    int tcp_fd() const noexcept { return _r.tcp.get(); }
    bool takes_local() const noexcept { return _r.local; }
    const door_place& door() const noexcept { return _door; }
    listener_info info() const;
    // The program's end; none: no descriptor, or it has closed.
    base::unique_fd make_lifeline() noexcept;

private:
    // peer: as accept() tells it, also of a connection that was reset before.
    struct accepted {
        base::unique_fd tcp;
        base::address peer;
        conn::end_mark mark{};  // of tcp
    };
    void on_events(uint32_t) noexcept override { _point.wake(); }
    void on_lifeline(lifeline& which, uint32_t events) noexcept;
    void finish() noexcept;
    seastar::future<> await_heir();
    void begin_to_await_heir() noexcept;
    seastar::future<> accept_one(accepted& one);
    seastar::future<> take_back();
    void leave_entry() noexcept;
    void let_go_of_socket() noexcept;
    lifeline* watch_lifeline(base::unique_fd& fd);
    std::optional<conn::places> take_places(uint32_t ring_bytes);
    seastar::future<> pause();
    seastar::future<> pass_on(accepted& one, conn::places place, conn::lease passes);
    seastar::future<> bring(accepted& one, conn::places place);
    seastar::future<> after_error(int err);
    template <typename Once>
    seastar::future<conn::brought> until_there_is_room(Once once);
};

}  // namespace vmsgr::local
