// One end of a conduit: it produces into one ring and consumes the other, it has one end of the doorbell, and it waits.
// Every user of a conduit that may sleep in the kernel waits here: streams, channels, and the test client. The daemon,
// whose reactor must not, uses the halves of a wait that do not sleep: emptied() and awaits_room(), before its event
// loop does.
//
// An `end` is a view: memory, private state and descriptor belong to the user. It is made for a call, or (by the
// daemon) for as long as all these stay where they are. The sending
// half (out, sent, wait_writable) is used under the user's send lock, the receiving half under its receive lock; the
// two may be used at the same time by two threads, each with a view of its own.
//
// A wait asks its user (`User`, a class of the caller's) at five points:
//
//   bool looks()        before all else, locked: did it look for a while instead (shm::patience)? Perhaps unlocked now.
//   void unlock()       the wait sleeps now: others may use this half meanwhile
//   bool over()         readers only: the ring is empty and this end is announced. Does the call end here? Locked.
//   void broke_rules()  the doorbell carried what is no token, or tokens without end
//   void left()         every holder of the other end is gone, and the ring was looked at since. Unlocked.
#pragma once

#include <optional>

#include "base/clock.hh"
#include "shm/segment.hh"
#include "shm/spin.hh"
#include "shm/wake.hh"

namespace vmsgr::shm {

enum class woken : uint8_t {
    look,  // something may have changed: look at the ring, after locking again
    over,  // the user's over() said so; still locked
    failed,  // no sleep, no more time, or a signal: waiting::errnum
};

// What the waits of one call have in common.
struct waiting {
    int spurious = 0;  // tokens for nothing, in a row; the user sets it to 0 when it gets something
    bool hung_up = false;  // the doorbell has; fin and reset were written before it, so one more look is due
    int errnum = 0;
};

// When a reader that waits for edges empties its ring, a token may stay behind (ring_receiver::settle_lazily).
// but_last: the latest one stays (ring_receiver::settle_but_last).
enum class tidy : uint8_t { fully, lazily, but_last };

class end {
public:
    ring_sender out;
    ring_receiver in;
    bell doorbell;
    size_t readable_from = 1;  // bytes: with less it is not announced as one that has something to read

    // rings: where the bytes of ring 0 and of ring 1 begin. which: 0 or 1, the end. resident, rights: of the doorbell.
    end(conduit_header& h, std::byte* ring0, std::byte* ring1, uint64_t capacity, unsigned which, tx_state& tx,
        rx_state& rx, int fd, uint32_t resident = 0, rights_sink* rights = nullptr) noexcept
        : out(h.ring[which], which == 0 ? ring0 : ring1, capacity, tx),
          in(h.ring[1 - which], which == 0 ? ring1 : ring0, capacity, rx),
          doorbell(fd, resident, &h.end[1 - which].flags, rights) {}

    // --- sending

    // Something was published. Here it is decided when the other end is woken: now.
    void sent() noexcept { out.wake(doorbell); }
    // Something whose last byte is urgent. first: nothing urgent was unread before.
    void sent_urgent(bool first) noexcept { out.wake_urgently(doorbell, first); }

    // Less than `bytes` are free (at most half a ring may be asked for). True: the doorbell turns writable once they
    // are. False: there is room; or the index is bad, which shows again at the user's own look.
    bool awaits_room(size_t bytes = 1) noexcept {
        bool room = true;
        return out.await_space(doorbell, room, bytes) == shm::look::ok && !room;
    }
    // look: there is room, or somebody took something, or left. failed: ETIMEDOUT, or poll's errno.
    template <typename User>
    woken wait_writable(User& user, waiting& w, size_t bytes, const base::deadline& until) {
        if (user.looks() || !awaits_room(bytes)) {
            return woken::look;
        }
        user.unlock();
        return sleep_writable(user, w, until);
    }
    // The second half of it, without the ring: until the doorbell is writable, or hangs up.
    template <typename User>
    woken sleep_writable(User& user, waiting& w, const base::deadline& until) {
        const short events = poll_out(w, until);
        if ((events & (POLLHUP | POLLERR)) != 0) {
            user.left();
        }
        return events != 0 ? woken::look : woken::failed;
    }

    // --- receiving

    // The reader has emptied its ring, or found it empty. Here it is decided when this end is announced as a sleeping
    // one: now. True: the ring is empty, or a token is certain to come. False: there is more to read.
    bool emptied(tidy how = tidy::fully) noexcept {
        switch (how) {
        case tidy::fully: break;
        case tidy::lazily: return in.settle_lazily(doorbell, lazy_tokens_max, readable_from);
        case tidy::but_last: return in.settle_but_last(doorbell, readable_from);
        }
        return in.settle(doorbell, readable_from);
    }
    // The reader has left data behind. edges: the program waits for edges, and gets one for what comes next.
    void left_some(bool edges) noexcept {
        if (edges) {
            in.announce_with_data(doorbell);
        }
        freed();
    }
    // It has taken something and looks again before it sleeps: whoever waits for room gets it.
    void freed() noexcept { in.relieve(doorbell); }
    // More bytes lie in the doorbell than tokens were counted, or others: somebody wrote to it past the library.
    bool holds_foreign_bytes() const noexcept;

    // The flags of a ring that is empty; nothing while it is not. They are read first: fin comes after the last byte.
    std::optional<uint32_t> flags_at_end() const noexcept {
        const uint32_t flags = in.flags();
        return in.has_data() ? std::nullopt : std::optional(flags);
    }

    // The ring is empty. until: nullopt, as the descriptor does (O_NONBLOCK, SO_RCVTIMEO, signals). failed: ETIMEDOUT
    // where a deadline has passed, or the errno of poll or recv.
    template <typename User>
    woken wait_readable(User& user, waiting& w, const std::optional<base::deadline>& until) {
        if (user.looks() || !emptied()) {
            return woken::look;
        }
        if (doorbell.foreign()) {
            user.broke_rules();
        }
        if (user.over()) {
            return woken::over;
        }
        user.unlock();
        if (w.hung_up) {
            user.left();
            return woken::look;
        }
        const woken r = sleep_readable(w, until);
        if (w.spurious > spurious_max) {
            user.broke_rules();
        }
        return r;
    }

private:
    // One is spurious now and then (another reader was faster), a thousand in a row are somebody who lies.
    static constexpr int spurious_max = 1000;

    short poll_out(waiting& w, const base::deadline& until);
    woken sleep_readable(waiting& w, const std::optional<base::deadline>& until);
};

}  // namespace vmsgr::shm
