// An event loop looks into the rings of its connections itself, as long as it is awake.
//
// A reader that empties its ring announces itself and takes the token out of its doorbell, so that the descriptor shows
// what is true; the next message then costs a token again, sent and taken by system calls. A loop that will look in a
// moment anyway need not do that. So the calls of its thread leave both out (client::stream::serve), and the loop does
// them when it is about to sleep in the kernel: it looks into all rings, announces them all, looks once more, sleeps.
//
// Nothing is lost by it, whoever else looks: until it is announced, such a stream is one whose reader has not come to
// the end yet. It has a token in its doorbell, which shows IN (with an empty ring: for nothing). Those who look at the
// descriptor through this library settle it first: poll and select, another set, the other threads of this one.
//
// A stream is served by the loop when:
//   - one thread alone has ever waited on the set, and the set is in no other set, in no poll(), and of this process;
//   - the kernel has just said IN of it, and nothing worse;
//   - it is registered for IN here and in no other set, without EPOLLONESHOT, EPOLLEXCLUSIVE and EPOLLPRI, under its
//     only number;
//   - its data belongs to no other number of the set, so that the kernel's events can be told apart (registrations.hh);
//   - no other process has it, and no signal is wanted (O_ASYNC).
// Whatever the library does not see at all (a set that is waited on by a system call of the program's own) is the
// kernel's, and true but for IN.
//
// The thread that waits on the set calls what has no other comment. Nothing here allocates from the heap.
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <cstdint>

#include "base/clock.hh"
#include "base/frame_hold.hh"
#include "preload/registrations.hh"

namespace vmsgr::preload {

class event_loop {
    // A stream.
    struct served {
        int fd;
        object* o;
        uint32_t version;  // of its registration, when it was shown last
        uint64_t shown;  // up to here: bytes that ever came
    };
    // More would make a turn long in which few have something; the others are the kernel's.
    static constexpr uint32_t served_max = 256;

    std::atomic<const void*> _thread{nullptr};
    std::atomic<bool> _off{false};
    bool _busy = false;
    uint32_t _turns = 0;
    uint32_t _from = 0;
    uint32_t _n = 0;
    int64_t _asked_kernel_ns = 0;
    served _served[served_max];

public:
    registrations told;

    // A turn of the loop, from the call to the sleep and again after it. Ends with a jump out of the call, too.
    class turn final : public base::frame_hold {
        event_loop& _l;
        static void jump_out(frame_hold& h) noexcept { static_cast<turn&>(h)._l._busy = false; }

    public:
        explicit turn(event_loop& l) noexcept : frame_hold(&jump_out), _l(l) {
            enlist();
            _l._busy = true;
        }
        ~turn() { end(); }
        // After the sleep, in which the kernel was asked.
        void go_on() noexcept {
            enlist();
            _l._busy = true;
            _l._asked_kernel_ns = base::now_ns();
        }
        void end() noexcept {
            if (_l._busy) {
                _l._busy = false;
                delist();
            }
        }
    };

    // Any thread. May this call be a turn of the loop? No: it is the kernel's alone, and what was served is settled.
    bool is_own_turn() noexcept;
    bool serves_any() const noexcept { return _n != 0; }
    bool serves_several() const noexcept { return _n > 1; }
    // The kernel's descriptors are not kept waiting by busy rings: one turn of some, or some time, is theirs.
    bool is_kernels_turn() noexcept;
    // Events of the rings alone, up to max of them.
    int look(epoll_event* events, int max) noexcept;
    // What the kernel said: leaves out IN of rings that are empty, and begins to serve whom it names. How many remain.
    int sift(epoll_event* events, int n) noexcept;
    // Before the sleep. Events that came meanwhile; 0: nothing is served any more, and the kernel shows what is true.
    int settle(epoll_event* events, int max) noexcept;

    // Any thread. From now on the set is the kernel's alone: others may be looking at it.
    void retire() noexcept;
    // In the child of a fork: its relatives have the set, too.
    void retire_in_child() noexcept { _off.store(true, std::memory_order_seq_cst); }
    bool is_retired() const noexcept { return _off.load(std::memory_order_seq_cst); }
    // A new set, before anybody can wait on it.
    void reset() noexcept;

private:
    bool show(served& s, epoll_event& event) noexcept;
    bool is_worth_telling(epoll_event& e) noexcept;
    void serve(int fd, registrations::entry& e) noexcept;
    bool is_in_other_set(const object& o) const noexcept;
    void leave(uint32_t at) noexcept;
    void serve_what_only_looks_show() noexcept;
    void settle_all() noexcept;
};

// Null: not an epoll set, or one that was not followed from its beginning.
event_loop* loop_of(const object& o) noexcept;
// A set that epoll_create has just made. Without the table's lock.
void follow_set(int epfd) noexcept;
// Around epoll_ctl: before it, whoever is to see fd from now on shall see what is true; after it, what was told.
void before_epoll_ctl(int epfd, int op, int fd, const epoll_event* event) noexcept;
void after_epoll_ctl(int epfd, int op, int fd, const epoll_event* event) noexcept;
// Its number is closed. Under the table's lock.
void forget_in_loops(const object& o, int fd) noexcept;
// Some loop serves some stream.
bool any_loop_serves() noexcept;
// O_ASYNC of a stream may change.
void expect_signals(object& o, int fd) noexcept;
// Before another wait looks at fd: a stream, or an epoll set.
void settle_before_wait(int fd) noexcept;

}  // namespace vmsgr::preload
