// The program's end of a conduit: what stands behind a descriptor that was a TCP socket.
//
// Two halves of state. `stream` is this process's: the mappings. `end_page` is shared with the forks and execs of this
// process: the indices, the locks, what connect() and getsockopt(SO_ERROR) have shown already. So parent and child may
// use one descriptor, as they may a TCP socket. The locks are robust: a holder may be killed.
//
// The other end is the daemon, or in a local conduit another program: then nobody but the two streams gives close,
// kill and shutdown the meaning that TCP gives them (stream_local.cc).
//
// Any thread. Nothing here allocates from the heap. Functions return as the system call of that name does, errno
// included; `fd` is the doorbell, whose own O_NONBLOCK, SO_RCVTIMEO and SO_SNDTIMEO say how to wait.
#pragma once

#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <optional>

#include "base/address.hh"
#include "base/clock.hh"
#include "base/error.hh"
#include "base/frame_hold.hh"
#include "base/sockets.hh"
#include "client/kept_fds.hh"
#include "client/memory.hh"
#include "client/streams/end_page.hh"
#include "client/streams/options.hh"
#include "proto/plain_cause.hh"
#include "shm/end.hh"

namespace vmsgr::client {

class side_lock;

// See stream.cc.
inline constexpr uint64_t receive_buffer_bytes = 128u << 10;

// Some stream of this process has shows_by_look().
extern std::atomic<bool> a_low_mark_was_lowered;
// Of this process and its relatives: rather too many.
extern std::atomic<int> streams_that_owe;
// This process has met urgent data.
extern std::atomic<bool> urgent_data_met;

class stream {
    held_memory _slot, _held_page;
    shm::conduit _memory;
    end_page* _page = nullptr;
    shm::local_entry* _shown = nullptr;  // of this process's session
    int _next_socket = -1;  // plain mode: what the number becomes once the ring is read
    std::atomic<int> _parked{-1};
    std::atomic<int> _sleepers{0};
    // stream_loop.cc
    std::atomic<const void*> _served_by{nullptr};
    std::atomic<bool> _unsettled{false};
    std::atomic<bool> _shows_by_look{false};
    std::atomic<uint32_t> _found_nothing{0};  // calls since the loop's last look; of the thread that serves it
    std::atomic<bool> _owes_token{false};  // late_tokens.hh
    std::atomic<bool> _went_back{false};  // going_back.cc; in this process
    // Bytes, each under its side's lock.
    std::atomic<uint64_t> _sent{0}, _received{0};
    std::atomic<bool> _to_show{false};
    // held_back.hh; under the send lock
    std::atomic<bool> _is_listed{false};
    int64_t _held_since_ns = 0;

public:
    // A new end on memory that nobody uses. `id` names the connection to the daemon. Or one that a relative of ours has
    // used before: not a stream if none has, or if its page is impossible.
    static stream create(held_memory slot, held_memory page, phase state, uint64_t id, unsigned which = 0,
                         far_end other = far_end::daemon) noexcept;
    static stream adopt(held_memory slot, held_memory page) noexcept;
    stream() noexcept = default;
    stream(stream&& o) noexcept { *this = std::move(o); }
    stream& operator=(stream&& o) noexcept {
        std::swap(_slot, o._slot);
        std::swap(_held_page, o._held_page);
        std::swap(_memory, o._memory);
        std::swap(_page, o._page);
        std::swap(_shown, o._shown);
        std::swap(_next_socket, o._next_socket);
        _parked.store(o._parked.exchange(_parked.load()));
        _served_by.store(o._served_by.exchange(_served_by.load()));
        _unsettled.store(o._unsettled.exchange(_unsettled.load()));
        _shows_by_look.store(o._shows_by_look.exchange(_shows_by_look.load()));
        _owes_token.store(o._owes_token.exchange(_owes_token.load()));
        _went_back.store(o._went_back.exchange(_went_back.load()));
        _sent.store(o._sent.exchange(_sent.load()));
        _received.store(o._received.exchange(_received.load()));
        _to_show.store(o._to_show.exchange(_to_show.load()));
        _is_listed.store(o._is_listed.exchange(_is_listed.load()));
        std::swap(_held_since_ns, o._held_since_ns);
        return *this;
    }
    explicit operator bool() const noexcept { return _page != nullptr; }

    end_page& page() const noexcept { return *_page; }
    shm::conduit_header& header() const noexcept { return _memory.header(); }
    bool is_local() const noexcept { return _page->other == far_end::program; }
    // What this end tells the other (shm::end_flag).
    std::atomic<uint32_t>& flags() const noexcept { return header().end[_page->which].flags; }

    const held_memory& slot() const noexcept { return _slot; }
    const held_memory& held_page() const noexcept { return _held_page; }
    // For an end that is a channel's from now on, which has its own account of the rings.
    held_memory take_memory() noexcept;
    // Where this process shows a local connection; null: nowhere.
    void show_in(shm::local_entry* e) noexcept { _shown = e; }
    shm::local_entry* shown() const noexcept { return _shown; }
    void note_bytes() const noexcept {
        if (_shown != nullptr) {
            _shown->bytes_in.store(_received.load(std::memory_order_relaxed), std::memory_order_relaxed);
            _shown->bytes_out.store(_sent.load(std::memory_order_relaxed), std::memory_order_relaxed);
        }
    }
    // A child of fork, whose parent's session is not its own: it shows the connection once it uses it.
    void show_when_used() noexcept {
        _shown = nullptr;
        _sent.store(0, std::memory_order_relaxed);
        _received.store(0, std::memory_order_relaxed);
        _to_show.store(is_local(), std::memory_order_relaxed);
    }

    // In plain mode: why, as the end that asked says.
    void note_plain() const noexcept {
        if (_shown != nullptr) {
            const uint32_t asked = flags().load(std::memory_order_relaxed) |
                                   header().end[in()].flags.load(std::memory_order_relaxed);
            const uint32_t moved = (asked & shm::end_moved) != 0 ? uint32_t(shm::local_moved) : 0;
            _shown->plain.store(shm::local_plain | moved | (asked >> shm::end_cause_shift << shm::local_cause_shift),
                                std::memory_order_relaxed);
        }
    }

    ssize_t noted(int fd, ssize_t result) noexcept {
        if (__builtin_expect(_to_show.load(std::memory_order_relaxed), 0) && _to_show.exchange(false)) {
            const int saved = errno;
            show_connection(fd, this);
            errno = saved;
        }
        note_bytes();
        return result;
    }

    ssize_t receive(int fd, const iovec* iov, size_t count, int flags);
    ssize_t send(int fd, const iovec* iov, size_t count, int flags);
    // sendfile, from `offset` into the ring, which waits like the doorbell; and splice, which never waits for the pipe.
    ssize_t send_file(int fd, int file, int64_t& offset, size_t n);
    ssize_t send_from_pipe(int fd, int pipe, size_t n);
    ssize_t receive_to_pipe(int fd, int pipe, size_t n);

    // TCP_CORK, or TCP_NODELAY, is set. The end of a cork, and TCP_NODELAY, show what was held back (held_back.hh).
    void cork(int fd, bool is_cork, bool on) noexcept;
    // For the thread that looks after them: those that are so old. False: none are left.
    bool show_late_bytes(int fd, int64_t min_age_ns) noexcept;

    int shutdown(int fd, int how) noexcept;
    // connect() called again on this descriptor: 0, or -1 with EALREADY, EISCONN or the failure.
    // `retry` is set when the failure was told before: the caller starts anew.
    int connect_again(int fd, bool& retry) noexcept;
    // connect() on a descriptor that blocks: waits until it is decided, as the kernel's would.
    int connect_and_wait(int fd);
    // Waits (or not) until the connect is decided; 0, or an errno.
    int await_connected(int fd, bool wait);

    // Of the sizes that the program asked for: so much is buffered.
    void bound_buffers(const base::asked_buffers& asked) noexcept;
    size_t unread_bytes(int fd) noexcept;
    // As FIONREAD says it: those before an urgent byte that reads leave out.
    size_t bytes_to_read(int fd) noexcept;
    size_t unsent_bytes() noexcept;
    // What SO_ERROR shows; the doorbell stops showing ERR with it.
    int take_error(int fd) noexcept;
    // Both directions have ended: the kernel would call the socket closed.
    bool closed_both_ways() noexcept;
    // What TCP_INFO would say (TCP_ESTABLISHED ...), as far as this end knows.
    uint8_t tcp_state() noexcept;
    // A program that waits for edges gets one for new data also while older data is unread.
    void watch_edges(bool out) noexcept {
        _page->edges.store(1, std::memory_order_relaxed);
        if (out) {
            _page->out_edges.store(1, std::memory_order_relaxed);
        }
    }
    // SO_RCVLOWAT: with fewer bytes the descriptor does not show IN. From the call on.
    void set_low_mark(int fd, uint32_t bytes) noexcept;
    // It was lowered to what lies in the ring: nobody sends a token for that, and a look alone finds it.
    bool shows_by_look() noexcept;
    // A loop looks from now on. once: and shows it but once.
    void leave_to_look(bool once) noexcept {
        _shows_by_look.store(!once, std::memory_order_relaxed);
        _unsettled.store(true, std::memory_order_seq_cst);
    }
    void watch_urgent() noexcept { _page->watches_urgent.store(1, std::memory_order_relaxed); }
    // What the program has set before, as far as the stream itself obeys it. `socket`: on which it was set.
    void obey(const option_list& set, int socket) noexcept;

    // Urgent data: a byte of the stream that is marked, at which a read stops, and which MSG_OOB reads out of turn.
    bool has_seen_urgent() const noexcept {
        return (header().ring[in()].flags.load(std::memory_order_acquire) & shm::ring_urgent) != 0;
    }
    bool is_at_mark() const noexcept;
    // What a poll that the kernel has answered by the doorbell has to show beside that: PRI for a byte that is there
    // and not read, no IN for one that ordinary reads leave out. May take the byte out of the ring.
    bool shows_urgent() const noexcept;
    bool shows_nothing_else(int fd) noexcept;
    // The kernel has shown IN and no end. True: a read would find nothing; the token is taken, or will show again.
    bool shows_in_for_nothing(int fd) noexcept;
    bool shows_in_for_its_turn(int fd) noexcept;
    void meet_urgent(int fd) noexcept;
    // While a connect is pending the end is not writable: tops the tokens up. Before the memory is shared.
    void start_connecting(int fd) noexcept;
    // Looks whether the daemon has decided a pending connect; with the doorbell also whether it has left.
    phase current(int fd = -1) noexcept;

    // Plain mode: from now on the doorbell itself carries the bytes, so that somebody without the library may use it.
    // The other side is asked and, if it does not sleep elsewhere, waited for; nothing is lost, doubled or reordered.
    // False: it cannot be (not connected, or broken), and the connection is reset if it had stood. Takes 50 us to 50 ms
    // with an honest peer, and ends at `until` with any. `why` is for people, at both ends and the daemon.
    bool become_plain(int fd, const base::deadline& until, proto::plain_cause why) noexcept;
    // In plain mode, what the other end is to get anew and the doorbell did not take at once. Any call on the stream
    // tries again; who waits for something else calls this now and then (streams_that_owe). True: nothing is left.
    bool pay(int fd) noexcept;
    // Plain, and nothing of ours has to be done before a call: the kernel's own will do.
    bool goes_past() const noexcept {
        return is_plain() && _page->owes.load(std::memory_order_acquire) == 0 && _page->reset_seen.load() == 0 &&
               _page->shared_socket.load(std::memory_order_relaxed) == 0 && _page->moved_to.load() == 0;
    }
    // A relative has moved the connection to another socket, and the number still means the one before, with tokens in
    // it: what is called here fails with ECONNRESET.
    bool is_left_behind(int fd) const noexcept;
    bool is_plain() const noexcept { return _page->plain.load(std::memory_order_acquire) != 0; }
    // An end of this conduit has asked. Under a side's lock.
    bool turns_plain() const noexcept { return is_ours_plain() || other_is_plain(); }
    // What is on its way is not known any more: both ends see a reset. Async-signal-safe.
    void break_off(int fd) noexcept;

    // The daemon wants to leave (going_back.cc). What it asks for: end_go_back, end_hold, end_gone; 0: nothing.
    uint32_t called_back() const noexcept {
        constexpr uint32_t asked = shm::end_go_back | shm::end_hold | shm::end_gone;
        return is_local() ? 0 : header().end[in()].flags.load(std::memory_order_acquire) & asked;
    }
    // gone: the numbers of this process are the kernel's socket now, and calls are its own. no: the daemon does not
    // answer, or will not. It returns at once, but where the daemon is stalled.
    enum class goes : uint8_t { gone, not_now, no };
    goes go_back(int fd) noexcept;
    bool goes_back(int fd) noexcept { return called_back() != 0 && go_back(fd) == goes::gone; }
    bool went_back() const noexcept { return _went_back.load(std::memory_order_acquire); }

    // A number is closed, or becomes something else, while calls sleep on it. They go on with a duplicate, as they
    // would go on with the kernel's file, and the connection lasts until the last of them returns.
    void park(int duplicate) noexcept { _parked.store(duplicate, std::memory_order_seq_cst); }
    bool is_parked() const noexcept { return _parked.load(std::memory_order_seq_cst) >= 0; }
    int take_parked() noexcept { return _parked.exchange(-1); }
    // How many calls sleep: of all that use it, these do not touch their number.
    int sleepers() const noexcept { return _sleepers.load(std::memory_order_seq_cst); }

    // An event loop looks at the ring by itself (preload/event_loop.hh). While it is awake, calls of its thread that do
    // not wait leave this end as a reader does that has not finished: unannounced, with a token in the doorbell. So no
    // token is sent for what comes next, and none is taken; the descriptor shows IN with an empty ring, until it is
    // settled, and hides nothing. thread: that of the loop (this_thread), or null: no loop looks.
    void serve(const void* thread) noexcept { _served_by.store(thread, std::memory_order_seq_cst); }
    bool is_served() const noexcept { return _served_by.load(std::memory_order_relaxed) != nullptr; }
    static const void* this_thread() noexcept;
    bool is_unsettled() const noexcept { return _unsettled.load(std::memory_order_seq_cst); }
    // The loop's look. True: bytes lie in the ring. head: how many ever came, whatever was read of them.
    bool look_into_ring(uint64_t& head) noexcept;
    // An end of file, a reset or plain bytes come behind what lies in the ring: the doorbell alone shows them.
    bool is_ending() const noexcept;
    // At least half of what the ring may hold is free: the doorbell shows OUT.
    bool has_much_room() const noexcept;
    // The loop is about to sleep, or somebody else waits: from now on the descriptor shows what is true, and no loop
    // serves it. edges: the program waits for edges, and was shown what came up to `shown`. False: there is something
    // to read for which no token may come. Any thread.
    bool settle(int fd, bool edges = false, uint64_t shown = 0) noexcept;

    // The token that a turn has kept back (late_tokens.hh), if it is not sent yet. Any thread.
    void send_late_token(int fd) noexcept;

    // Before the number is closed that was this process's last for it. The last holder says goodbye to another program,
    // by what it left unread and by SO_LINGER. The daemon needs no word.
    // may_linger: no epoll set shows the number any more, so its open file may outlive it.
    void close_last(int fd, bool may_linger) noexcept;
    // The number becomes something else, and nobody says goodbye.
    void give_up_hold() noexcept;
    // Another process gets this end, by fork or with a message.
    void add_holder() noexcept;
    // connect(AF_UNSPEC): the other program sees a reset.
    void reset_peer() noexcept;
    // When no call uses it any more: the memory may serve the next connection. The end of it.
    void recycle() noexcept;

private:
    static ssize_t fail(int err) noexcept {
        errno = err;
        return -1;
    }
    unsigned out() const noexcept { return _page->which; }
    unsigned in() const noexcept { return 1 - _page->which; }
    shm::ring_sender sender() const noexcept {
        return {header().ring[out()], _memory.ring_data(int(out())), _memory.capacity, _page->tx};
    }
    shm::ring_receiver receiver() const noexcept {
        return {header().ring[in()], _memory.ring_data(int(in())), _memory.capacity, _page->rx};
    }
    // For a call that may wait.
    shm::end end(int fd) const noexcept {
        auto& m = _memory;
        return {header(), m.ring_data(0), m.ring_data(1), m.capacity, out(), _page->tx, _page->rx, fd};
    }
    bool broken() noexcept;
    void break_with(int err) noexcept;
    int writable_or_error(int fd) noexcept;
    int pipe_error(int fd, int flags) noexcept;
    void other_end_gone() noexcept;
    enum class listens : uint8_t { yes, not_any_more, gone };
    listens other_listens(int fd) const noexcept;
    bool hung_up(int fd) const noexcept;
    bool other_finished() const noexcept;  // nothing more comes, in order or because it is gone
    void send_into_nothing(int fd) noexcept;
    void await_port(int fd) noexcept;

    // Around a sleep of a call that was given number fd; afterwards that is the number to go on with.
    class sleep final : public base::frame_hold {
        stream& _s;
        int& _fd;
        bool _on = false;

        static void jump_out(frame_hold& h) noexcept {
            auto& l = static_cast<sleep&>(h);
            if (std::exchange(l._on, false)) {
                l._s._sleepers.fetch_sub(1, std::memory_order_seq_cst);
            }
        }

    public:
        sleep(stream& s, int& fd) noexcept : frame_hold(&jump_out), _s(s), _fd(fd) {}
        ~sleep() { end(); }
        void begin() noexcept {
            if (!_on) {
                enlist();
                _on = true;
                _s._sleepers.fetch_add(1, std::memory_order_seq_cst);
            }
        }
        void end() noexcept {
            if (std::exchange(_on, false)) {
                _s._sleepers.fetch_sub(1, std::memory_order_seq_cst);
                delist();
                _fd = _s.number_now(_fd);
            }
        }
    };
    int number_now(int fd) const noexcept;
    bool out_ring_is_empty() const noexcept;
    bool withdraw_question() noexcept;
    bool may_ask() const noexcept;
    void dress(int socket) noexcept;
    void await_sleepers() const noexcept;
    // Plain mode: plain.cc.
    bool other_is_plain() const noexcept {
        return (header().end[in()].flags.load(std::memory_order_acquire) & shm::end_plain) != 0;
    }
    bool is_ours_plain() const noexcept {
        return (header().end[out()].flags.load(std::memory_order_acquire) & shm::end_plain) != 0;
    }
    void send_plainly(int socket, uint32_t flags) noexcept;
    bool move_unread(int socket) noexcept;
    bool agree_to_asking_end() noexcept;
    bool await_other_plain(int fd, const base::deadline& limit) noexcept;
    bool counts_tokens(const shm::end& e) const noexcept;
    bool take_last_tokens(int fd, const base::deadline& until) noexcept;
    bool is_too_late(const shm::end& e, const base::deadline& limit) const noexcept;
    bool turn_plain_here(int fd, shm::end& e, const base::deadline& until) noexcept;
    enum class moves : uint8_t { done, lost, not_now };
    moves move_to_new_socket(int fd, shm::end& e, bool finished, const base::deadline& limit) noexcept;
    void move_to(int fd, int socket) noexcept;
    // A kernel call on the number could be made to wait by the other program (shared_socket).
    bool may_wait_there() const noexcept { return _page->shared_socket.load(std::memory_order_relaxed) != 0; }
    template <typename Call>
    ssize_t call_plain(int fd, short events, int flags, Call&& call);
    bool fill(int socket, shm::end& e, bool ends) noexcept;
    int pay_and_wait(int fd, bool for_input, bool dont_wait);
    void pay_at_close(int fd) noexcept;
    bool take_new_socket(int fd) noexcept;
    bool follow_into_plain(int fd) noexcept;
    ssize_t receive_urgent(int fd, const iovec* iov, size_t count, int flags) noexcept;
    size_t up_to_urgent(shm::end& e, size_t& there, bool peeks) noexcept;
    bool came_to_urgent(shm::end& e) noexcept;
    void go_past_urgent() noexcept { _page->urgent_met.store(0, std::memory_order_relaxed); }
    bool keeps_urgent() const noexcept;
    ssize_t receive_plain(int fd, const iovec* iov, size_t count, int flags, size_t done);
    ssize_t send_plain(int fd, const iovec* iov, size_t count, int flags, size_t done);

    // Copying and waiting: stream_send.cc, stream_receive.cc. A step is made under its side's lock.
    enum class put : uint8_t {
        finished,  // the call returns what it has done
        failed,  // the copy did, errno says why, and nothing was done before it
        broken,  // nothing can be sent any more
        full,  // the ring is, and the doorbell shows it
        plain,  // no more goes into the ring: the doorbell carries it
        back,  // perhaps: the daemon wants it to be the kernel's again
    };
    enum class took : uint8_t {
        finished,
        failed,
        empty,  // nothing is left, and the writer has not been told
        too_short,  // of a peek that wants all
        nothing_behind,  // the place where a peek begins (SO_PEEK_OFF)
        unlocked,  // meanwhile; look again
        plain,  // no more comes from the ring: the doorbell carries it
    };
    // Published and freed in steps of this size, so that both sides work at once.
    static constexpr size_t step_bytes = 64u << 10;
    struct sending;
    struct send_user;
    bool is_held_up(const sending& s, shm::end& e, put& how) noexcept;
    void tell_reader(shm::end& e, int fd) noexcept;
    void publish(const sending& s, shm::end& e, size_t n) noexcept;
    template <typename Fill>
    put put_some(sending& s, shm::end& e, Fill&& fill);
    int may_hold_back(int flags) noexcept;
    bool hold_back(int fd, int flags, shm::end& e, size_t n) noexcept;
    void show_now(shm::end& e) noexcept;
    // Nothing follows: what was held back is to be seen, without a token.
    void show_rest() noexcept;
    template <typename Fill>
    bool throw_away(sending& s, size_t most, Fill&& fill);
    template <typename Fill, typename Plainly>
    ssize_t send_loop(int fd, size_t wanted, int flags, Fill&& fill, Plainly&& plainly);
    int wait_for_room(int& fd, std::optional<base::deadline>& until, bool partly_done);

    struct receiving;
    size_t enough_of(size_t wanted, int flags) const noexcept;
    size_t readable_from() const noexcept;
    bool wants_back(const receiving& r) const noexcept;
    bool is_asked(const receiving& r) const noexcept;
    bool becomes_kernels(receiving& r) noexcept;
    ssize_t result_of(receiving& r, side_lock& lock) noexcept;
    struct receive_user;
    template <typename Drain>
    took take_some(receiving& r, shm::end& e, side_lock& lock, Drain&& drain);
    template <typename Drain>
    took peek_some(receiving& r, shm::end& e, size_t there, Drain&& drain);
    template <typename Drain, typename Plainly>
    ssize_t receive_loop(receiving r, Drain&& drain, Plainly&& plainly);
    bool tell_writer(const receiving& r, shm::end& e, bool took_all) noexcept;
    bool is_left_to_loop(const receiving& r) const noexcept;
    ssize_t leave_to_loop(const receiving& r, bool over) noexcept;
    bool look_before_sleep(receiving& r, shm::end& e, side_lock& lock) noexcept;
    bool gather_more(receiving& r, shm::end& e, side_lock& lock) noexcept;
    int64_t look_limit_ns(int flags) noexcept;
    uint64_t bytes_sent() const noexcept;
    bool ends_here(receiving& r) noexcept;
    bool ending() noexcept;
};

}  // namespace vmsgr::client
