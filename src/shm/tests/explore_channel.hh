// The two ends of a message channel, for the explorer: the loops of client/channel_send.cc and channel_receive.cc
// around the ring's code. They use its protocol in their own way: a writer waits for more than a byte of room, a
// reader frees in steps, announces itself only before it sleeps or says EAGAIN, and says in between that it is awake.
#pragma once

#include "shm/tests/explore_words.hh"

namespace vmsgr::shm::explore {

struct channel_plan {
    std::string name;
    std::vector<unsigned> frames;   // bytes of each, at most half of the ring less the place for a bye
    bool spins = false;
    bool parts = false;             // the writer publishes a frame in two pieces, as a daemon may
    int killed = -1;
    uint32_t unwritable_at = 4;
};
inline void PrintTo(const channel_plan& p, std::ostream* out) { *out << p.name; }

class channel_scene {
    static constexpr uint64_t capacity = 8;
    static constexpr unsigned bye = 1;
    static constexpr uint64_t step = 2;  // freed at once, where the reader goes on
    const channel_plan& _p;
    world& _w;
    words _words;
    std::byte _data[capacity]{};
    tx_state _tx;
    rx_state _rx;
    uint64_t _read = 0;      // what the reader took, freed or not
    unsigned _gathered = 0;  // of a frame that came in part
    size_t _received = 0;

    basic_ring_sender<words> sender() { return {_words, _data, capacity, _tx}; }
    basic_ring_receiver<words> receiver() { return {_words, _data, capacity, _rx}; }

public:
    channel_scene(const channel_plan& p, world& w) : _p(p), _w(w) {
        w.killable = p.killed;
        w.q.unwritable_at = p.unwritable_at;
        w.q.refused_at = p.unwritable_at + 4;
        w.at_rest = [] {};
        _words.consumer_waits.is_waits = true;
        _words.consumer_waits.after_exchange = [this](uint32_t) {
            if (!_w.self().producer && _w.broken == fault::no_second_look) {
                _words.head.stale = true;
                _words.head.stale_value = _rx.tail;
            }
        };
        w.add(true, 0, [this] { write_all(); });
        w.add(false, 10, [this] { read_for_ever(); });
    }

    void check_end() {
        const uint64_t unread = _words.head.raw() - _read;
        for (auto& f : _w.fibers()) {
            if (f->done || f->asleep == sleep_on::for_ever) {
                continue;
            }
            if (f->producer && (_w.consumer_gone || unread == 0)) {
                _w.error = "a writer sleeps although all was read";
            } else if (!f->producer && (unread != 0 || _w.producer_gone)) {
                _w.error = "a reader sleeps although there is a frame, or an end";
            }
        }
        if (_w.error.empty() && _p.killed < 0 && _received != _p.frames.size()) {
            _w.error = "not everything arrived";
        }
    }

private:
    void must(look l) {
        if (l != look::ok) {
            _w.fail("an index is out of range");
        }
    }

    // --- the writer: channel::await_room and publish ---

    void publish(unsigned n) {
        doorbell bell;
        auto ring = sender();
        ring.publish(n);
        ring.wake(bell);
    }
    void write_all() {
        for (unsigned bytes : _p.frames) {
            if (!await_room(bytes + bye)) {
                return;
            }
            if (_p.parts && bytes > 1) {
                publish(1);
                publish(bytes - 1);
            } else {
                publish(bytes);
            }
        }
        if (_p.killed < 0) {
            _w.sleep(sleep_on::for_ever, "stays open");
        }
    }
    bool await_room(size_t need) {
        doorbell bell;
        auto ring = sender();
        for (;;) {
            size_t free = 0;
            bool room = false;
            must(ring.free_bytes(free));
            if (free >= need) {
                return true;
            }
            must(ring.await_space(bell, room, need));
            if (!room) {
                _w.sleep(sleep_on::out, "sleeps for room");
                if (_w.consumer_gone) {
                    return false;
                }
            }
        }
    }

    // --- the reader: channel::find, arm, spin_for_data and await ---

    // A whole frame that has come; false: none.
    bool take_frame(bool gather) {
        size_t n = 0;
        must(receiver().data_bytes(n));
        const uint64_t seen = _rx.head_seen - _read;
        if (_received == _p.frames.size() || seen == 0) {
            return false;
        }
        const unsigned left = _p.frames[_received] - _gathered;
        if (seen < left) {
            if (gather) {  // out of the ring, so that it is empty
                _gathered += unsigned(seen);
                _read += seen;
            }
            return false;
        }
        _read += left;
        _gathered = 0;
        ++_received;
        return true;
    }
    void free_taken() {
        doorbell bell;
        auto ring = receiver();
        ring.consume(_read - _rx.tail);
        if (_w.broken != fault::no_relief) {
            ring.relieve(bell);
        }
    }
    bool arm() {
        doorbell bell;
        auto ring = receiver();
        if (_read != _rx.tail) {
            ring.consume(_read - _rx.tail);
        }
        return ring.settle(bell);
    }
    void read_for_ever() {
        bool gone = false;
        for (;;) {
            const bool gather = !_p.spins || _w.choices.choose(2) == 0;
            if (take_frame(gather)) {
                if (_read - _rx.tail >= step) {
                    free_taken();
                }
                continue;
            }
            if (!gather) {
                receiver().stay_awake();
                (void)receiver().has_data();
                if (take_frame(true)) {
                    continue;
                }
            }
            if (_rx.head_seen != _read || !arm()) {
                continue;
            }
            if (gone) {
                return;
            }
            _w.sleep(sleep_on::in, "sleeps for a frame");
            gone = _w.q.there == 0 && _w.producer_gone;
        }
    }
};

}  // namespace vmsgr::shm::explore
