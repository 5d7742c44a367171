// One end of a conduit against an actor who has the other one: who writes every word of the shared memory, and rings,
// reads, cuts and closes the doorbell, between any two steps of ours. Whatever it does, our end stays within its rings,
// and no step waits or goes on for ever.
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/tests/fuzz_input.hh"
#include "shm/arena.hh"
#include "shm/end.hh"

namespace {

using namespace vmsgr;
using namespace vmsgr::shm;
using fuzz::must;

// What an end asks its user while it waits (end.hh).
struct user {
    end& e;
    bool broken = false, gone = false;
    bool looks() const { return false; }
    void unlock() {}
    bool over() const { return (e.flags_at_end().value_or(0) & (ring_fin | ring_reset)) != 0; }
    void broke_rules() { broken = true; }
    void left() { gone = true; }
};

class contest {
    fuzz::input& _in;
    const conduit _memory;
    const unsigned _which;
    bell_pair _bell = std::move(make_bell().value());
    tx_state _tx;
    rx_state _rx;
    end _end;
    waiting _waits;

public:
    contest(fuzz::input& in, const conduit& memory)
        : _in(in),
          _memory(memory),
          _which(unsigned(in.below(2))),
          _end(memory.header(), memory.ring_data(0), memory.ring_data(1), memory.capacity, _which, _tx, _rx,
               _bell.program.get()) {}

    void run() {
        while (!_in.empty()) {
            _in.one_in(2) ? attack() : step();
        }
    }

private:
    void attack() {
        const int theirs = _bell.other.get();
        unsigned char bytes[8];
        memset(bytes, _in.one_in(8) ? _in.byte() : token_byte, sizeof bytes);
        switch (_in.below(8)) {
        case 0: ::send(theirs, bytes, 1 + _in.below(sizeof bytes), MSG_DONTWAIT | MSG_NOSIGNAL); break;
        case 1: ::send(theirs, bytes, 1, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_OOB); break;
        case 2: ::recv(theirs, bytes, sizeof bytes, MSG_DONTWAIT); break;
        case 3:
            if (_in.one_in(4)) {
                _in.one_in(2) ? (void)::shutdown(theirs, int(_in.below(3))) : _bell.other.reset();
            }
            break;
        case 4: {  // any word at all
            auto* words = reinterpret_cast<std::atomic<uint32_t>*>(_memory.words);
            words[_in.below(sizeof(conduit_header) / sizeof(uint32_t))].store(uint32_t(_in.number()));
            break;
        }
        default: write_index(_memory.header().ring[_in.below(2)]);
        }
    }
    // Near what is there: so does a lie that is hard to see.
    void write_index(ring_words& w) {
        const uint64_t by = _in.one_in(2) ? _in.below(8) : _in.number();
        switch (_in.below(6)) {
        case 0: w.head.fetch_add(by); break;
        case 1: w.tail.fetch_add(by); break;
        case 2: w.base.store(_in.number()); break;
        case 3: w.urgent.store(w.head.load() + by); break;
        case 4: w.tokens_sent.fetch_add(uint32_t(by)); break;
        default: w.consumer_waits.store(uint32_t(by)); w.flags.store(uint32_t(by));
        }
    }

    void step() {
        switch (_in.below(10)) {
        case 0:
        case 1: put(_in.below(2 * _memory.capacity)); break;
        case 2:
        case 3: get(_in.below(2 * _memory.capacity)); break;
        case 4: wait(); break;
        case 5: spin(); break;
        case 6: (void)_end.emptied(tidy(_in.below(3))); break;
        case 7: _end.left_some(_in.one_in(2)); break;
        case 8: settings(); break;
        default: look_at_bell();
        }
    }
    void must_lie_in(const pieces& p, const std::byte* ring, size_t n) {
        must(p.bytes() == n, "pieces of another size");
        for (const auto& piece : p.iov) {
            const auto* at = static_cast<std::byte*>(piece.iov_base);
            must(piece.iov_len == 0 || (at >= ring && at + piece.iov_len <= ring + _memory.capacity),
                 "a piece outside of the ring");
        }
    }
    void put(size_t wanted) {
        size_t n = 0;
        if (_end.out.free_bytes(n) != look::ok) {
            return;
        }
        must(n <= _memory.capacity, "more is free than there is");
        n = std::min(n, wanted);
        const pieces p = _end.out.space(n);
        must_lie_in(p, _memory.ring_data(int(_which)), n);
        for (const auto& piece : p.iov) {
            memset(piece.iov_base, 7, piece.iov_len);
        }
        const bool urgent = n != 0 && _in.one_in(8);
        const bool first = !_end.out.has_urgent_unread();
        if (urgent) {
            _end.out.mark_urgent(n);
        }
        _end.out.publish(n);
        urgent ? _end.sent_urgent(first) : _end.sent();
        _end.out.set_more(_in.one_in(4));
        if (_in.one_in(16)) {
            _in.one_in(2) ? _end.out.reset(_in.byte()) : _end.out.set_flags(ring_fin);
        }
    }
    void get(size_t wanted) {
        size_t n = 0;
        if (_end.in.data_bytes(n) != look::ok) {
            return;
        }
        must(n <= _memory.capacity, "more is there than the ring holds");
        n = std::min(n, wanted);
        const size_t skip = n != 0 ? _in.below(n) : 0;
        must_lie_in(_end.in.data(n - skip, skip), _memory.ring_data(int(1 - _which)), n - skip);
        _end.in.consume(n);
        _waits.spurious = n != 0 ? 0 : _waits.spurious;
        (void)_end.in.urgent_end();
    }
    void wait() {
        user u{_end};
        const base::deadline at_once(0);
        const bool reads = _in.one_in(2);
        const woken w = reads ? _end.wait_readable(u, _waits, at_once)
                              : _end.wait_writable(u, _waits, 1 + _in.below(_memory.capacity / 2), at_once);
        must(w != woken::failed || _waits.errnum != 0, "a wait that fails without a reason");
    }
    void spin() {
        const auto s = _in.one_in(2) ? _end.in.begin_spin(_in.below(1000)) : _end.in.watch();
        (void)_end.in.spin_over(s);
        (void)_end.in.gathered(s, _in.below(1000));
        _end.in.stay_awake();
    }
    void settings() {
        _end.in.set_window(uint32_t(_in.number()));
        _tx.most = {_in.number() % bounds::none, _in.number() % bounds::none};
        if (_in.one_in(8)) {  // a relative of ours was killed
            _in.one_in(2) ? _end.out.recover(_end.doorbell) : _end.in.recover();
        }
    }
    void look_at_bell() {
        (void)_end.doorbell.unread();
        (void)_end.doorbell.holds_rights();
        (void)_end.out.reader_waits();
        (void)_end.out.owes_token();
        (void)_end.flags_at_end();
        if (_in.one_in(8)) {
            _end.doorbell.drain();
        }
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const new_arena made = std::move(create_arena(1, ring_bytes_min).value());
    const conduit memory = made.memory.at(0);
    renew(memory.header());
    fuzz::input in(data, size);
    contest(in, memory).run();
    return 0;
}
