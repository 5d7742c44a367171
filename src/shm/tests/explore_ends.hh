// Programs at both ends of one direction, for the explorer: the loops of client/streams around the ring's code.
#pragma once

#include "shm/tests/explore_words.hh"

namespace vmsgr::shm::explore {

enum class reader : uint8_t {
    blocking,
    polling,
    level,
    edge,
    lazy,
    spinning,
    gathering,
    loop,  // an event loop that looks into the ring while it is awake, level-triggered
    loop_edge,
};

struct plan {
    std::string name;
    std::vector<reader> readers;
    unsigned bytes = 3;
    int writers = 1;
    bool edge_writer = false;
    bool whole_writes = false;  // each asks for all that is left
    bool relatives = false;  // each writer and each reader is a process of its own
    bool exact = false;  // no token but for data that is there, and for a full ring
    bool fin = false;
    bool late = false;  // a writer sends the tokens of several writes after them
    int killed = -1;         // process 0 is the first writer's, 10 the first reader's
    uint32_t unwritable_at = 4;
    uint32_t lazy_left = lazy_tokens_max;
    uint64_t low = 1;  // the reader wants no less (SO_RCVLOWAT)
    enum class worker : uint8_t {
        none,
        writes,
        reads
    } daemon = worker::none;  // one end is the daemon's: explore_worker.hh
    unsigned deaths = 2;  // of it
    uint32_t refused_at = 0;  // 0: as bell_limits promises
};
inline void PrintTo(const plan& p, std::ostream* out) { *out << p.name; }

class scene {
protected:
    static constexpr uint64_t capacity = 4;
    const plan& _p;
    world& _w;
    words _words;
    std::byte _data[capacity]{};
    tx_state _tx;
    rx_state _rx;
    robust_lock _send_lock, _recv_lock;
    uint32_t _waits_were = 0;
    bool _topped_up = false;
    bool _owed = false;
    bool _awake = false;  // a daemon that reads, and looks before it sleeps

    basic_ring_sender<words> sender() { return {_words, _data, capacity, _tx}; }
    basic_ring_receiver<words> receiver() { return {_words, _data, capacity, _rx}; }
    bool fault_is(fault f) const { return _w.broken == f; }

public:
    scene(const plan& p, world& w) : _p(p), _w(w) {
        _words.consumer_waits.is_waits = true;
        _words.consumer_waits.after_exchange = [this](uint32_t old) {
            if (!_w.self().producer) {
                _waits_were = old;
                if (fault_is(fault::no_second_look)) {
                    _words.head.stale = true;
                    _words.head.stale_value = _rx.tail;
                }
            }
        };
        w.locks = {&_send_lock, &_recv_lock};
        w.killable = p.killed;
        w.q.unwritable_at = p.unwritable_at;
        w.q.refused_at = p.refused_at != 0 ? p.refused_at : p.unwritable_at + 4;
        w.at_rest = [this] { check_rest(); };
        for (int i = 0; p.daemon != plan::worker::writes && i < p.writers; ++i) {
            w.add(true, p.relatives ? i : 0, [this, i] { write_all(share(i)); });
        }
        for (size_t i = 0; p.daemon != plan::worker::reads && i < p.readers.size(); ++i) {
            w.add(false, p.relatives ? 10 + int(i) : 10, [this, i] { read_for_ever(_p.readers[i]); });
        }
    }

    // Nobody can go on any more: is somebody asleep who should not be?
    void check_end() {
        uint64_t left = _words.head.raw() - _words.tail.raw();
        for (auto& f : _w.fibers()) {
            if (f->done || f->asleep == sleep_on::for_ever) {
                continue;
            }
            if (f->asleep == sleep_on::lock) {
                _w.error = "waits for a lock for ever";
            } else if (f->producer && (_w.consumer_gone || capacity - left >= capacity / 2)) {
                _w.error = "a writer sleeps although there is room";
            } else if (!f->producer && ((left >= _p.low && !_send_lock.orphaned) || _w.producer_gone)) {
                _w.error = "a reader sleeps although there is data, or an end";
            }
        }
        const bool all_live = _p.killed < 0 || _p.daemon != plan::worker::none;
        bool whole = all_live && left < _p.low;
        if (_w.error.empty() && (whole ? _rx.tail + left != _p.bytes : all_live)) {
            _w.error = "not everything arrived";
        }
    }

protected:
    unsigned share(int i) const {
        unsigned n = unsigned(_p.writers);
        return _p.bytes / n + (i == 0 ? _p.bytes % n : 0);
    }
    static std::byte byte_at(uint64_t position) { return std::byte(position * 7 + 1); }

    void check_rest() {
        // What a killed relative owed is made good by the next who takes its lock.
        if (_w.producer_gone || _w.consumer_gone || _send_lock.orphaned || _recv_lock.orphaned) {
            return;
        }
        uint64_t left = _words.head.raw() - _words.tail.raw();
        const bool writes = _p.daemon == plan::worker::writes;
        if (left >= _p.low && _w.q.there == 0 && !_owed && !_awake && !(writes && _tx.refused)) {
            _w.fail("at rest: data in the ring, and the descriptor is not readable");
        }
        if (capacity - left >= capacity / 2 && !_w.writable() && !writes) {  // who has room does not wait for OUT
            _w.fail("at rest: room in the ring, and the descriptor is not writable");
        }
        if (_p.exact && !_topped_up && left == 0 && _w.q.there != 0) {
            _w.fail("at rest: an empty ring, and the descriptor is readable");
        }
    }

    // --- the writer ---

    void wake(doorbell& bell) {
        if (_p.late && sender().owes_token()) {
            _owed = true;
            return;
        }
        if (fault_is(fault::count_after_sending)) {
            full_fence(_words);
            if (_words.consumer_waits.exchange(0, std::memory_order_seq_cst) != 0) {
                bell.send_token();
                _words.tokens_sent.fetch_add(1, std::memory_order_seq_cst);
            }
            return;
        }
        if (fault_is(fault::no_decision)) {
            full_fence(_words);
            if (_words.consumer_waits.exchange(0, std::memory_order_seq_cst) != 0) {
                _words.tokens_sent.fetch_add(1, std::memory_order_seq_cst);
                bell.send_token();
            }
            return;
        }
        sender().wake(bell);
    }
    void write_all(unsigned n) {
        while (n != 0 && !_w.consumer_gone) {
            _w.enter_call();
            unsigned done = write_call(_p.whole_writes ? n : 1 + _w.choices.choose(n));
            _w.leave_call();
            n -= done;
            if (_owed && (done == 0 || n == 0 || _w.choices.choose(2) == 0)) {
                pay();
            }
            if (done == 0) {
                _w.sleep(_p.edge_writer ? sleep_on::out_edge : sleep_on::out, "sleeps for OUT");
            }
        }
        if (_p.fin) {
            sender().set_flags(ring_fin);
        } else if (_p.killed < 0 || _p.daemon != plan::worker::none) {
            _w.sleep(sleep_on::for_ever, "stays open");
        }
    }
    void pay() {
        doorbell bell;
        _w.enter_call();
        if (_w.lock(_send_lock)) {
            sender().recover(bell);
        }
        _owed = false;
        sender().wake(bell);
        _w.unlock(_send_lock);
        _w.leave_call();
    }
    unsigned write_call(unsigned wanted) {
        doorbell bell;
        auto ring = sender();
        if (_w.lock(_send_lock) && !fault_is(fault::no_send_recovery)) {
            ring.recover(bell);
        }
        unsigned done = 0;
        for (bool room = true; room && !_w.consumer_gone;) {
            size_t free = 0;
            must(ring.free_bytes(free));
            if (free != 0) {
                size_t n = std::min<size_t>(free, wanted - done);
                pieces to = ring.space(n);
                uint64_t at = _tx.head;
                for (auto& piece : to.iov) {
                    for (size_t i = 0; i < piece.iov_len; ++i) {
                        static_cast<std::byte*>(piece.iov_base)[i] = byte_at(at++);
                    }
                }
                ring.publish(n);
                done += unsigned(n);
                wake(bell);
                if (done == wanted && free > n) {
                    break;
                }
                if (done < wanted || free > n) {
                    continue;
                }
            }
            _topped_up = true;
            must(ring.await_space(bell, room));
            if (done == wanted) {
                break;
            }
        }
        _w.unlock(_send_lock);
        return done;
    }
    void must(look l) {
        if (l != look::ok) {
            _w.fail("an index is out of range");
        }
    }

    // --- the reader ---

    enum class got : uint8_t { some, nothing, end };

    // preload/event_loop.cc with client/streams/stream_loop.cc: the same steps, around the same code.
    void loop_for_ever(bool edges) {
        uint64_t shown = 0;
        for (bool awake = false;;) {
            uint64_t head = 0;
            if (!awake) {
                _w.sleep(edges ? sleep_on::in_edge : sleep_on::in, "the loop sleeps");
                awake = true;
                head = _words.head.load(std::memory_order_acquire);
            } else if (!has_news(edges, shown, head)) {
                awake = !settle_and_look(edges, shown);
                continue;
            }
            shown = head;
            // A program that waits for edges reads until there is nothing; a hang-up makes any go the long way.
            const bool whole = edges || _w.choices.choose(2) == 0;
            for (size_t done = 0;; done = 0) {
                _w.enter_call();
                const got g = _w.producer_gone ? read_call(reader::level, capacity, done)
                                               : read_and_leave(whole ? capacity : 1, done);
                _w.leave_call();
                if (g == got::end) {
                    return;
                }
                if (!edges || done == 0) {
                    break;
                }
            }
        }
    }
    bool has_news(bool edges, uint64_t shown, uint64_t& head) {
        head = _words.head.load(std::memory_order_acquire);
        return head != _rx.tail && (!edges || head != shown);
    }
    // True: the loop may sleep.
    bool settle_and_look(bool edges, uint64_t shown) {
        if (fault_is(fault::sleeps_unsettled)) {
            return true;
        }
        doorbell bell;
        auto ring = receiver();
        _w.enter_call();
        if (_w.lock(_recv_lock)) {
            ring.recover();
        }
        bool sleeps = false;
        uint64_t head = 0;
        if (!ring.has_data()) {
            sleeps = settle(bell, edges);
        } else if (edges) {
            ring.announce_with_data(bell);
            full_fence(_words);
            sleeps = fault_is(fault::no_look_at_what_was_shown) || !has_news(true, shown, head);
        }
        _w.unlock(_recv_lock);
        _w.leave_call();
        return sleeps;
    }
    got read_and_leave(size_t wanted, size_t& done) {
        doorbell bell;
        auto ring = receiver();
        if (_w.lock(_recv_lock)) {
            ring.recover();
        }
        size_t n = 0;
        must(ring.data_bytes(n));
        if (n != 0) {
            done = std::min(n, wanted);
            look_at(ring.data(done));
            ring.consume(done);
            ring.relieve(bell);
        }
        const bool fin = (ring.flags() & ring_fin) != 0 && !ring.has_data();
        _w.unlock(_recv_lock);
        return done != 0 ? got::some : fin ? got::end : got::nothing;
    }

    void read_for_ever(reader kind) {
        if (kind == reader::loop || kind == reader::loop_edge) {
            loop_for_ever(kind == reader::loop_edge);
            return;
        }
        const bool looks = kind == reader::spinning || kind == reader::gathering;
        const bool waits_in_call = kind == reader::blocking || kind == reader::polling || looks;
        for (bool drained = true, hung_up = false;;) {
            bool poll = kind == reader::level || kind == reader::polling || (looks && _w.choices.choose(2) == 1);
            if (poll) {
                _w.sleep(sleep_on::in, "polls");
            } else if (!waits_in_call && drained) {
                _w.sleep(sleep_on::in_edge, "waits for an edge");
                hung_up = _w.producer_gone;  // one event shows both: such a program reads on to the end
            }
            size_t wanted = _w.choices.choose(2) == 0 ? capacity : 1;
            size_t done = 0;
            _w.enter_call();
            got g = read_call(kind, wanted, done);
            _w.leave_call();
            if (g == got::end) {
                return;
            }
            drained = done < wanted && !hung_up;
        }
    }

    bool settle(doorbell& bell, bool lazily) {
        auto ring = receiver();
        if (fault_is(fault::take_before_announcing)) {
            _words.consumer_waits.exchange(1, std::memory_order_seq_cst);
            uint32_t n = _words.tokens_sent.load(std::memory_order_acquire) - _rx.tokens_taken;
            if (n != 0) {
                _rx.tokens_taken += bell.take_tokens(n);
            }
            return !ring.has_data();
        }
        _waits_were = 0;
        bool empty = lazily ? ring.settle_lazily(bell, _p.lazy_left, _p.low) : ring.settle(bell, _p.low);
        if (!empty && fault_is(fault::mark_cleared) && announcement(_waits_were).is_mark()) {
            _words.consumer_waits.exchange(0, std::memory_order_seq_cst);
        }
        return empty;
    }
    void look_at(const pieces& from) {
        uint64_t at = _rx.tail;
        for (auto& piece : from.iov) {
            for (size_t i = 0; i < piece.iov_len; ++i) {
                if (static_cast<std::byte*>(piece.iov_base)[i] != byte_at(at++)) {
                    _w.fail("a wrong byte");
                }
            }
        }
    }

    got read_call(reader kind, size_t wanted, size_t& done) {
        const bool edges = kind == reader::edge || kind == reader::lazy;
        bool gathers = kind == reader::gathering;
        const bool waits = kind == reader::blocking || kind == reader::polling || kind == reader::spinning || gathers;
        int spins = kind == reader::spinning ? 1 : 0;
        doorbell bell;
        auto ring = receiver();
        for (bool gone = false;;) {
            if (_w.lock(_recv_lock)) {
                ring.recover();
            }
            for (size_t n = 0;;) {
                must(ring.data_bytes(n));
                if (n == 0 && spins-- > 0) {
                    spin s = ring.begin_spin(wanted - done);
                    _w.unlock(_recv_lock);
                    bool over = ring.spin_over(s);
                    if (!over && fault_is(fault::spin_then_sleep)) {
                        _w.sleep(sleep_on::in, "sleeps after a spin");
                    }
                    if (_w.lock(_recv_lock)) {
                        ring.recover();
                    }
                    if (fault_is(fault::spin_and_read_less)) {
                        wanted = 1;
                    }
                    continue;
                }
                if (n == 0) {
                    if (settle(bell, false)) {
                        if (done != 0) {
                            _w.unlock(_recv_lock);
                            return got::some;
                        }
                        break;
                    }
                    continue;
                }
                size_t used = std::min(n, wanted - done);
                look_at(ring.data(used));
                ring.consume(used);
                done += used;
                bool now_empty = false;
                if (used == n && done < wanted && std::exchange(gathers, false)) {
                    spin s = ring.begin_spin(wanted - done);
                    _w.unlock(_recv_lock);
                    ring.gathered(s, wanted - done);
                    if (_w.lock(_recv_lock)) {
                        ring.recover();
                    }
                    continue;
                }
                if (used == n || (_p.low > 1 && ring.is_below(_p.low))) {
                    now_empty = settle(bell, kind == reader::lazy);
                } else {
                    if (edges) {
                        ring.announce_with_data(bell);
                    }
                    if (!fault_is(fault::no_relief)) {
                        ring.relieve(bell);
                    }
                }
                if (done == wanted || now_empty) {
                    _w.unlock(_recv_lock);
                    return got::some;
                }
            }
            bool fin = (ring.flags() & ring_fin) != 0;
            bool more = ring.has_data();
            _w.unlock(_recv_lock);
            if (more) {
                continue;
            }
            if (fin) {
                return got::end;
            }
            if (gone) {
                return got::end;
            }
            // recv(MSG_PEEK) on the doorbell
            if (waits) {
                _w.leave_call();
                _w.sleep(sleep_on::in, "sleeps in the call");
                _w.enter_call();
            } else {
                _w.point("peeks");
            }
            if (_w.q.there != 0) {
                continue;
            }
            if (_w.producer_gone) {
                gone = true;
            } else if (!waits) {
                return got::nothing;
            }
        }
    }
};

}  // namespace vmsgr::shm::explore
