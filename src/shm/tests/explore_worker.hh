// The daemon at one end of one direction, for the explorer: the loops of conn/vm_conn around the ring's code. It dies
// at any point, and another worker takes over what lies in memory, in the doorbell, and in the kernel's counters.
#pragma once

#include "shm/tests/explore_ends.hh"

namespace vmsgr::shm::explore {

class worker_scene : public scene {
    uint64_t _moved = 0;  // by TCP's counters: received into the ring, or sent from it

public:
    worker_scene(const plan& p, world& w) : scene(p, w) {
        const bool writes = p.daemon == plan::worker::writes;
        w.killable = writes ? 0 : 10;
        w.heirs = p.deaths;
        w.may_refuse = true;
        w.heir = [this, writes] { writes ? write_on() : read_on(); };
        w.add(writes, w.killable, [this, writes] { writes ? receive_all() : send_all(); });
    }

private:
    // --- it receives from TCP, and writes into the ring

    void write_on() {
        _tx = {};
        doorbell bell;
        auto ring = sender();
        const uint64_t head = fault_is(fault::takes_over_the_old_index) ? _words.head.raw() : _moved;
        if (fault_is(fault::takes_over_without_token) || fault_is(fault::takes_over_with_token_for_data) ||
            fault_is(fault::takes_over_trusting_counts)) {
            _tx.head = head;
            _tx.tail_seen = _words.tail.load(std::memory_order_acquire);
            _tx.base = _words.base.load(std::memory_order_relaxed);
            ring.publish_anew();
            if (!fault_is(fault::takes_over_trusting_counts)) {
                ring.set_flags(ring_inexact);
            }
            if (fault_is(fault::takes_over_trusting_counts) ||
                (fault_is(fault::takes_over_with_token_for_data) && _tx.tail_seen != head)) {
                bell.send_token();
            }
        } else {
            ring.take_over(bell, head);
        }
        _w.leave_call();
        receive_all();
    }
    void receive_all() {
        doorbell bell;
        for (auto ring = sender(); _moved < _p.bytes && !_w.consumer_gone;) {
            if (_tx.head != _moved) {
                _w.fail("bytes are lost");
            }
            _w.enter_call();
            size_t free = 0;
            must(ring.free_bytes(free));
            if (bool room = true; free == 0) {
                must(ring.await_space(bell, room));
                _w.leave_call();
                if (!room) {
                    wait_for_room(bell);
                }
                continue;
            }
            const size_t n = 1 + _w.choices.choose(unsigned(std::min<uint64_t>(free, _p.bytes - _moved)));
            _w.point("receives", n);
            uint64_t at = _moved;
            for (auto& piece : ring.space(n).iov) {
                for (size_t i = 0; i < piece.iov_len; ++i) {
                    static_cast<std::byte*>(piece.iov_base)[i] = byte_at(at++);
                }
            }
            _moved += n;
            ring.publish(n);
            ring.wake(bell);
            _w.leave_call();
        }
        while (_tx.refused && !fault_is(fault::forgets_refused_token)) {
            wait_for_room(bell);
        }
        _w.sleep(sleep_on::for_ever, "nothing more comes");
    }
    void wait_for_room(doorbell& bell) {
        _w.sleep(sleep_on::out_edge, "sleeps for OUT");
        _w.enter_call();
        if (_w.writable() && !fault_is(fault::forgets_refused_token)) {
            sender().send_refused(bell);
        }
        _w.leave_call();
    }

    // --- it reads from the ring, and sends to TCP

    void read_on() {
        _rx = {};
        _awake = true;
        doorbell bell;
        auto ring = receiver();
        const uint64_t tail = fault_is(fault::takes_over_the_old_index) ? _words.tail.raw() : _moved;
        if (fault_is(fault::takes_over_without_relief) || fault_is(fault::takes_over_trusting_counts)) {
            _rx.tail = _rx.head_seen = tail;
            _rx.base = _words.base.load(std::memory_order_relaxed);
            _rx.tokens_taken = _words.tokens_sent.load(std::memory_order_acquire) - bell.unread();
            ring.recover();
            _rx.inexact = !fault_is(fault::takes_over_trusting_counts);
        } else {
            ring.take_over(bell, tail, true);
        }
        _w.point("the far side is full");
        _w.drain();
        _w.leave_call();
        if (fault_is(fault::takes_over_and_sleeps)) {
            ring.take_counted(bell);
            _w.sleep(sleep_on::in_edge, "sleeps");
            _w.sleep(sleep_on::in_edge, "sleeps again");
        }
        send_all();
    }
    void send_all() {
        doorbell bell;
        for (auto ring = receiver();;) {
            if (_rx.tail != _moved) {
                _w.fail("bytes go out twice");
            }
            _w.enter_call();
            size_t n = 0;
            must(ring.data_bytes(n));
            if (n != 0) {
                n = 1 + _w.choices.choose(unsigned(n));
                look_at(ring.data(n));
                _w.point("sends", n);
                _moved += n;
                ring.consume(n);
                ring.relieve(bell);
                _w.leave_call();
                continue;
            }
            ring.relieve(bell);
            ring.stay_awake();
            _awake = true;
            if (!ring.has_data() && ring.settle(bell)) {
                _awake = false;
                _w.leave_call();
                _w.sleep(sleep_on::in_edge, "sleeps for IN");
                continue;
            }
            _w.leave_call();
        }
    }
};

}  // namespace vmsgr::shm::explore
