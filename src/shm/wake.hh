// Which byte on the doorbell is owed when: the wake protocol on top of a ring (ring.hh), inseparable from the order of
// its loads and stores. models/wake.pml is its proof; a change here starts there. src/shm/tests/explore*.cc runs this
// very code in every order that x86 allows.
//
// Who may call: a ring_sender under its side's send lock or on its shard, a ring_receiver likewise.
//
// Who turns the announcement (layout.hh) into what:
//
//   it is       | consumer: settle,      | begin_spin | stay_awake | producer: wake
//               | announce_with_data     |            |            |
//   awake       | asleep                 | awake      | awake      | awake: nothing is owed
//   asleep      | asleep                 | mark       | awake      | deciding
//   mark        | asleep                 | mark       | awake      | head within it: mark. Beyond it: deciding
//   deciding    | asleep: the producer   | deciding   | awake      | asleep, where all was taken already;
//               | looks anew             |            |            | else awake, and a token is sent
//
// A settle() that finds data takes its announcement back (asleep to awake), unless it met one that stood before.
//
// Spinning. A reader that looks at memory for a while would rather not be sent a token for each piece of data. To
// withdraw its announcement would be wrong: a read that then takes a part of what came leaves data in the ring and no
// token, and nobody could send one (a consumer cannot make its own end readable). So it raises its announcement to a
// mark, the index where its call will stop reading (begin_spin): up to there the bytes are its own business, the first
// byte beyond brings a token as ever. Either the call reads up to the mark, or it finds the ring empty and settles; in
// both cases "data in the ring implies a token in the socket or about to be sent" holds again when it returns, and a
// spin that succeeds costs neither side a system call. A mark is kept by its reader alone: one that is killed while it
// spins takes it along, so it needs that no other process has the descriptor. Spinning in poll or epoll_wait needs no
// mark: it only looks.
#pragma once

#include "shm/bell.hh"
#include "shm/ring.hh"

namespace vmsgr::shm {

// Found by the words' type: tests/explore runs this very code on words and fences of its own.
inline void full_fence(const ring_words&) noexcept { std::atomic_thread_fence(std::memory_order_seq_cst); }

// Left lying for a program that waits for edges (settle_lazily). One more, and OUT could be withheld from a producer
// although there is room: one missed by the count and one answer to the present announcement come on top, and
// bell_limits promises no more than four until the end is not writable.
inline constexpr uint32_t lazy_tokens_max = 1;

// So often a producer looks anew because the consumer changed its announcement in between.
inline constexpr int decisions_max = 64;

// A producer that waits for room gets it back once no more than this is unread, and no more than half a ring: about
// half of what TCP's buffers hold.
inline constexpr size_t relieved_below = 2u << 20;

// What a spinning reader compares with.
struct spin {
    uint64_t head = 0;
    uint32_t ended = 0;
};

template <typename Words>
class basic_ring_sender : public basic_ring_producer<Words> {
    using indices = basic_ring_producer<Words>;
    using indices::_st;
    using indices::_w;

public:
    using indices::basic_ring_producer;
    using indices::free_bytes;
    using indices::set_flags;

    // This side lost a holder in its lock (a killed fork): what is private is true.
    void publish_anew() noexcept {
        _w->base.store(_st->base, std::memory_order_relaxed);
        _w->head.store(_st->head, std::memory_order_release);
    }
    // The same. Whether its token was counted or sent is not known, so one more goes out uncounted and the consumer
    // stops counting.
    template <typename Bell>
    void recover(Bell& bell) noexcept {
        publish_anew();
        set_flags(ring_inexact);
        if (!bell.send_token()) {
            refused();
        }
    }
    // The process on this side has died, and another goes on, who knows how far the ring is filled. The token goes out
    // whatever lies there: it stands for one that was counted and never sent, too, which a reader may be about to take.
    template <typename Bell>
    void take_over(Bell& bell, uint64_t head) noexcept {
        _st->head = head;
        _st->tail_seen = _w->tail.load(std::memory_order_acquire);
        _st->base = _w->base.load(std::memory_order_relaxed);
        recover(bell);
    }
    // This end is writable. A token that was refused, as nobody had taken those of many take-overs, is sent now,
    // whatever the announcement says: a reader that counts on the full socket may have emptied it since, and sleep.
    template <typename Bell>
    void send_refused(Bell& bell) noexcept {
        if (std::exchange(_st->refused, false)) {
            send_token(bell);
        }
    }

    // Sends a token when the consumer has announced that it waits, and for no less than there is now. What it has taken
    // already needs none, although its announcement came after that: the token would make a descriptor readable
    // that has nothing to read. Between the look at the announcement and the look at the tail the word says so
    // (deciding), as a settle() that met awake would count on a token to come.
    template <typename Bell>
    void wake(Bell& bell) noexcept {
        full_fence(*_w);  // publish before the look; pairs with ring_receiver::settle
        for (int i = 0; i < decisions_max; ++i) {
            const announcement waits(_w->consumer_waits.load(std::memory_order_relaxed));
            if (waits.is_content_with(_st->head)) {
                return;
            }
            if (!turn(waits, announcement::deciding())) {
                continue;
            }
            // Acquire, with the exchange above: what was taken before the announcement shows in the tail.
            const bool taken = _w->tail.load(std::memory_order_acquire) == _st->head;
            if (turn(announcement::deciding(), taken ? announcement::asleep() : announcement::awake())) {
                if (!taken) {
                    send_token(bell);
                }
                return;
            }
            // It has announced anew meanwhile, or withdrawn.
        }
        send_token(bell);  // a consumer that changes its mind for ever; a token too many harms nobody
    }

    // wake() would send a token now: the consumer waits for what was published. Who is told so calls wake() later.
    bool owes_token() const noexcept {
        full_fence(*_w);  // as in wake()
        return !announcement(_w->consumer_waits.load(std::memory_order_relaxed)).is_content_with(_st->head);
    }

    // The same after a publish whose last byte is urgent: the token is an urgent one (PRI, SIGURG), and goes out also
    // where none is owed, if `first`: no earlier one says so. A mark does not hold it back, as a read stops before the
    // urgent byte.
    template <typename Bell>
    void wake_urgently(Bell& bell, bool first) noexcept {
        full_fence(*_w);
        for (int i = 0; i < decisions_max; ++i) {
            const announcement waits(_w->consumer_waits.load(std::memory_order_relaxed));
            if (waits.is_awake()) {
                break;
            }
            if (!turn(waits, announcement::deciding())) {
                continue;
            }
            const bool taken = _w->tail.load(std::memory_order_acquire) == _st->head;
            if (turn(announcement::deciding(), taken ? announcement::asleep() : announcement::awake())) {
                if (!taken) {
                    send_token<true>(bell);
                }
                return;
            }
        }
        if (first && _w->tail.load(std::memory_order_acquire) != _st->head && bell.writable()) {
            send_token<true>(bell);
        }
    }

    // Ring full: fills the doorbell until this end is not writable, so that poll and epoll show OUT only once the
    // consumer has freed enough. True: there is room after all. `wanted`: at most half a ring, which is what a consumer
    // frees before it gives OUT back (relieve).
    template <typename Bell>
    look await_space(Bell& bell, bool& room, size_t wanted = 1) noexcept {
        size_t n = 0;
        for (;;) {
            // The last look comes after the last token was counted: pairs with ring_receiver::relieve.
            full_fence(*_w);
            if (free_bytes(n) != look::ok) {
                return look::bad_index;
            }
            room = n >= wanted;
            if (room || !bell.writable() || !send_token(bell)) {
                return look::ok;
            }
        }
    }

    // A token that the caller sends himself, with something beside it.
    void count_token() noexcept { _w->tokens_sent.fetch_add(1, std::memory_order_seq_cst); }

    // It waits still: no token could be sent, or it has had all already.
    bool reader_waits() const noexcept {
        return !announcement(_w->consumer_waits.load(std::memory_order_relaxed)).is_awake();
    }

private:
    bool turn(announcement from, announcement to) noexcept {
        uint32_t expected = from.word();
        return _w->consumer_waits.compare_exchange_strong(expected, to.word(), std::memory_order_seq_cst);
    }
    // Counted before it is sent, so that the reader it wakes can take it.
    template <bool urgent = false, typename Bell>
    bool send_token(Bell& bell) noexcept {
        count_token();
        bool sent;
        if constexpr (urgent) {
            sent = bell.send_urgent_token();
        } else {
            sent = bell.send_token();
        }
        if (sent) {
            return true;
        }
        _w->tokens_sent.fetch_sub(1, std::memory_order_seq_cst);
        refused();
        return false;
    }
    // The other end is gone (its hang-up is seen elsewhere), or the socket is full: of tokens of many take-overs, or of
    // a stranger's bytes.
    void refused() noexcept {
        _st->refused = true;
        _w->consumer_waits.store(announcement::asleep().word(), std::memory_order_seq_cst);
    }
};

template <typename Words>
class basic_ring_receiver : public basic_ring_consumer<Words> {
    using indices = basic_ring_consumer<Words>;
    using indices::_capacity;
    using indices::_st;
    using indices::_w;

public:
    using indices::basic_ring_consumer;
    using indices::ended;
    using indices::flags;
    using indices::has_data;

    void recover() noexcept {
        _w->tail.store(_st->tail, std::memory_order_release);
        distrust_count();
    }
    // As ring_sender::take_over. This side is awake, and looks before it sleeps. Who waits for room has it now, also
    // where nothing more is taken for a while; connected: or else a writable end would say that it is.
    template <typename Bell>
    void take_over(Bell& bell, uint64_t tail, bool connected) noexcept {
        _st->tail = _st->head_seen = tail;
        _st->base = _w->base.load(std::memory_order_relaxed);
        _st->tokens_taken = _w->tokens_sent.load(std::memory_order_acquire) - bell.unread();
        recover();
        stay_awake();
        if (size_t n = 0; connected && this->data_bytes(n) == look::ok) {
            relieve(bell);
        }
    }

    // After a consume: gives a producer that waits for room its writable end back, and keeps one token so that
    // this end stays readable.
    template <typename Bell>
    void relieve(Bell& bell) noexcept {
        full_fence(*_w);  // consume before the look at the count; pairs with ring_sender::await_space
        uint32_t unread = unread_tokens(bell);
        if (unread >= 2) {
            size_t left = _st->head_seen - _st->tail;
            if (left <= std::min<size_t>(_capacity / 2, relieved_below)) {
                take(bell, unread - 1);
            }
        }
    }

    // Less than `from` bytes lie there, with which this end is not to be readable (SO_RCVLOWAT).
    bool is_below(size_t from) const noexcept {
        return from <= 1 ? !has_data() : _w->head.load(std::memory_order_acquire) - _st->tail < from;
    }

    // The ring was seen empty: announces that this side waits, looks again, and only then takes the tokens that
    // were counted before the announcement. A later token answers it and must stay. True: still empty, or a token
    // is certain to come for what is there now. False: data came; the caller goes on reading, as no further edge may
    // come for it. The announcement is withdrawn if it was ours (another reader may rely on one that stood already),
    // and all tokens but one are taken, or a producer would find its end not writable although there is room.
    // from: less than so many bytes count as nothing; the announcement is a mark then, below which no token comes.
    template <typename Bell>
    bool settle(Bell& bell, size_t from = 1) noexcept {
        return settle_to(bell, 0, 0, from);
    }
    // The same for a program that waits for edges, after a read that emptied the ring and returns a short count: a few
    // tokens may stay, as each further one is an edge all the same. Only where no read would sleep: the descriptor
    // shows IN for nothing. Not before EAGAIN: what lies there hides a hang-up from a look at the doorbell.
    template <typename Bell>
    bool settle_lazily(Bell& bell, uint32_t max_left = lazy_tokens_max, size_t from = 1) noexcept {
        return settle_to(bell, max_left, 0, from);
    }

    // The same where the latest token has to stay: it shows PRI for an urgent byte that was met and not read.
    template <typename Bell>
    bool settle_but_last(Bell& bell, size_t from = 1) noexcept {
        return settle_to(bell, 1, 1, from);
    }

    // A blocking read found the ring empty, or emptied it, and will look for a while. `wanted`: what the call still
    // takes. It keeps reading up to there, or until settle() says that the ring is empty; nothing else may end it (no
    // MSG_PEEK). Only a standing announcement is raised: where it is awake, a token is there or on its way.
    spin begin_spin(size_t wanted) noexcept {
        spin s{_st->tail, ended()};
        uint32_t stands = announcement::asleep().word();
        const auto mark = announcement::mark(_st->tail + std::min<uint64_t>(wanted, _capacity));
        _w->consumer_waits.compare_exchange_strong(stands, mark.word(), std::memory_order_seq_cst);
        return s;
    }
    // The same for a look alone, as before poll and epoll_wait: nothing is announced. Needs no lock.
    spin watch() const noexcept { return {_w->head.load(std::memory_order_acquire), ended()}; }
    // Something came or ended since. Needs no lock.
    bool spin_over(const spin& s) const noexcept {
        return _w->head.load(std::memory_order_acquire) != s.head || ended() != s.ended;
    }
    // So many bytes came since, or it ended. Needs no lock.
    bool gathered(const spin& s, size_t n) const noexcept {
        return _w->head.load(std::memory_order_acquire) - s.head >= n || ended() != s.ended;
    }

private:
    template <typename Bell>
    bool settle_to(Bell& bell, uint32_t max_left, uint32_t kept, size_t from) noexcept {
        full_fence(*_w);  // consume before the look at the count, or a top-up of a ring no longer full is not counted
        uint32_t unread = unread_tokens(bell);
        const announcement was = announce(from <= 1 ? announcement::asleep()
                                                    : announcement::mark(_st->tail + (from - 1)));
        full_fence(*_w);  // announce before the look; pairs with ring_sender::wake
        const bool empty = is_below(from);
        if (empty || (from > 1 && is_passed(was)) || answered(was)) {
            if (unread > (empty ? max_left : kept)) {
                take(bell, unread - kept);
            }
            return true;
        }
        if (unread >= 2) {
            take(bell, unread - 1);
        }
        return false;
    }
    // A mark that bytes have come beyond: their producer has not decided yet, and will meet the new announcement.
    bool is_passed(announcement was) const noexcept {
        return was.is_mark() && !was.is_content_with(_w->head.load(std::memory_order_acquire));
    }
    // Data came right after the announcement. Who answers that sends a token, which is an edge too: for the caller it
    // is as if the data came with it (read now, it would leave the token with an empty ring). Only where none is sure
    // the caller reads on: nobody had seen the announcement, which is withdrawn then; or it was a mark before, and
    // the bytes below that bring no token; or a producer died before it looked, and its relative's token is taken.
    bool answered(announcement was) noexcept {
        if (was.is_mark() || (!was.is_awake() && inexact())) {
            return false;
        }
        return !was.is_awake() || announce(announcement::awake()).is_awake();
    }
    // What it was before.
    announcement announce(announcement now) noexcept {
        return announcement(_w->consumer_waits.exchange(now.word(), std::memory_order_seq_cst));
    }

public:
    // A read left data behind and the program waits for edges: new data is to bring one, as TCP does. Tokens stay
    // bounded at any fill, as each such read may be answered by one.
    template <typename Bell>
    void announce_with_data(Bell& bell) noexcept {
        uint32_t unread = unread_tokens(bell);
        if (unread >= 2) {
            take(bell, unread - 1);
        }
        announce(announcement::asleep());
    }
    // Every token that was counted, as they say nothing any more. False: some are under way.
    template <typename Bell>
    bool take_counted(Bell& bell) noexcept {
        if (const uint32_t left = untaken(); left != 0) {
            take(bell, left);
        }
        return untaken() == 0;
    }
    // The same where one may have been counted that nobody can send any more: those that are here.
    template <typename Bell>
    void take_those_here(Bell& bell) noexcept {
        if (untaken() != 0) {
            take(bell, bell.unread());
        }
    }
    // The doorbell is another one, in which none of those lies that were counted.
    void skip_counted() noexcept { _st->tokens_taken += untaken(); }
    // So many tokens, the resident ones among them, may lie here unread. Asked after they were seen, as each is counted
    // before it is sent.
    bool may_have_sent(uint32_t tokens, uint32_t resident) const noexcept {
        return inexact() || tokens <= untaken() + resident;
    }

    // A holder of this side died in its lock: what it took is not known.
    void distrust_count() noexcept { _st->inexact = true; }
    // The daemon while it polls: no token is wanted.
    void stay_awake() noexcept {
        if (!announcement(_w->consumer_waits.load(std::memory_order_relaxed)).is_awake()) {
            _w->consumer_waits.store(announcement::awake().word(), std::memory_order_relaxed);
        }
    }

private:
    bool inexact() const noexcept {
        return _st->inexact || (_w->flags.load(std::memory_order_relaxed) & ring_inexact) != 0;
    }
    template <typename Bell>
    uint32_t unread_tokens(Bell& bell) noexcept {
        if (__builtin_expect(inexact(), 0)) {
            return bell.unread();
        }
        return untaken();
    }
    uint32_t untaken() const noexcept { return _w->tokens_sent.load(std::memory_order_acquire) - _st->tokens_taken; }
    template <typename Bell>
    void take(Bell& bell, uint32_t n) noexcept {
        _st->tokens_taken += bell.take_tokens(std::min<uint32_t>(n, bell_tokens_max));
    }
};

using ring_sender = basic_ring_sender<ring_words>;
using ring_receiver = basic_ring_receiver<ring_words>;

}  // namespace vmsgr::shm
