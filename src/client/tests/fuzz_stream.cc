// A stream, the program's end of a connection, against an actor who has the other end and writes what it likes into the
// shared memory and the doorbell between any two calls. Calls return what a socket's would, and never more than was
// asked for; none waits, and nothing is left open.
#include <string.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/tests/fuzz_input.hh"
#include "client/streams/stream.hh"

namespace {

using namespace vmsgr;
using namespace vmsgr::client;
using fuzz::must;

class contest {
    fuzz::input& _in;
    shm::bell_pair _bell = std::move(shm::make_bell().value());
    stream _s;
    unsigned char _buffer[6000];

public:
    explicit contest(fuzz::input& in) : _in(in) {
        auto slot = take_slot(1, shm::ring_bytes_min);
        auto page = take_page();
        must(slot && page, "no memory for a stream");
        const auto state = in.one_in(8) ? phase::connecting : phase::up;
        const auto other = in.one_in(2) ? far_end::daemon : far_end::program;
        _s = stream::create(std::move(*slot), std::move(*page), state, 1, 0, other);
        ::fcntl(fd(), F_SETFL, O_NONBLOCK);
        if (other == far_end::daemon) {
            shm::prepare_bell(fd(), 1);
        }
        if (state == phase::connecting) {
            _s.start_connecting(fd());
        }
    }
    void run() {
        while (!_in.empty()) {
            _in.one_in(2) ? attack() : call();
        }
        end();
    }

private:
    int fd() const { return _bell.program.get(); }
    shm::ring_words& words(size_t ring) { return _s.header().ring[ring]; }

    void attack() {
        switch (_in.below(8)) {
        case 0: ring_bell(); break;
        case 1: ::recv(_bell.other.get(), _buffer, sizeof _buffer, MSG_DONTWAIT); break;
        case 2:
            if (_in.one_in(4)) {
                _in.one_in(2) ? (void)::shutdown(_bell.other.get(), int(_in.below(3))) : _bell.other.reset();
            }
            break;
        case 3: {
            auto* all = reinterpret_cast<std::atomic<uint32_t>*>(&_s.header());
            all[_in.below(sizeof(shm::conduit_header) / sizeof(uint32_t))].store(uint32_t(_in.number()));
            break;
        }
        case 4: decide(); break;
        default: write_index();
        }
    }
    void ring_bell() {
        unsigned char bytes[8];
        memset(bytes, _in.one_in(8) ? _in.byte() : shm::token_byte, sizeof bytes);
        const int how = MSG_DONTWAIT | MSG_NOSIGNAL | (_in.one_in(8) ? int(MSG_OOB) : 0);
        ::send(_bell.other.get(), bytes, 1 + _in.below(sizeof bytes), how);
    }
    // As an honest end does it, or nearly.
    void write_index() {
        auto& w = words(1);
        const uint64_t by = _in.one_in(4) ? _in.number() : _in.below(512);
        switch (_in.below(8)) {
        case 0: words(0).tail.store(_in.one_in(2) ? words(0).head.load() : by); break;
        case 1: w.flags.fetch_or(uint32_t(1) << _in.below(6)); break;
        case 2: w.urgent.store(w.head.load() + by); break;
        case 3: w.error.store(int32_t(by)); break;
        case 4:
            w.tokens_sent.fetch_add(1);
            ring_bell();
            break;
        case 5: w.base.store(by); break;
        default: w.head.fetch_add(by);
        }
    }
    // What the other end says of itself, and the outcome of a connect.
    void decide() {
        auto& h = _s.header();
        h.end[1].flags.fetch_or(uint32_t(1) << _in.below(14));
        if (_in.one_in(8)) {
            h.end[0].flags.fetch_or(shm::end_granted);
        }
        h.error.store(int32_t(_in.number()));
        h.status.store(uint32_t(_in.below(4)));
    }

    void call() {
        switch (_in.below(12)) {
        case 0:
        case 1:
        case 2: receive(); break;
        case 3:
        case 4: send(); break;
        case 5: sizes(); break;
        case 6: loop(); break;
        case 7: urgent(); break;
        case 8:
            if (_in.one_in(4)) {
                (void)_s.shutdown(fd(), int(_in.below(3)));
            }
            break;
        case 9: connect(); break;
        case 10: plain(); break;
        default: must(unsigned(_s.take_error(fd())) < 4096, "an error that is none"); _s.watch_edges(_in.one_in(2));
        }
    }
    void receive() {
        constexpr int ways[] = {0, MSG_PEEK, MSG_OOB, MSG_WAITALL, MSG_PEEK | MSG_OOB, MSG_TRUNC};
        const size_t first = _in.below(2000), second = _in.below(4000);
        memset(_buffer, 0x55, sizeof _buffer);
        const iovec two[] = {{_buffer, first}, {_buffer + first, second}};
        const ssize_t n = _s.receive(fd(), two, 2, ways[_in.below(std::size(ways))] | MSG_DONTWAIT);
        must(n >= -1 && n <= ssize_t(first + second), "more was received than asked for");
        must(n >= 0 || (errno > 0 && errno != EFAULT), "a call that fails for no reason of its own");
        must(std::ranges::all_of(std::span(_buffer).subspan(first + second), [](auto b) { return b == 0x55; }),
             "bytes behind the buffer");
    }
    void send() {
        const size_t first = _in.below(2000), second = _in.below(4000);
        const iovec two[] = {{_buffer, first}, {_buffer + first, second}};
        const int how = _in.one_in(8) ? int(MSG_OOB) : _in.one_in(4) ? int(MSG_MORE) : 0;
        const ssize_t n = _s.send(fd(), two, 2, how | MSG_DONTWAIT | MSG_NOSIGNAL);
        must(n >= -1 && n <= ssize_t(first + second), "more was sent than asked for");
    }
    void sizes() {
        must(_s.unread_bytes(fd()) <= shm::ring_bytes_min || _s.is_plain(), "more to read than the ring holds");
        (void)_s.bytes_to_read(fd());
        (void)_s.unsent_bytes();
        (void)_s.closed_both_ways();
        (void)_s.is_ending();
        (void)_s.has_much_room();
    }
    void loop() {
        uint64_t head = 0;
        _s.serve(_in.one_in(2) ? stream::this_thread() : nullptr);
        (void)_s.look_into_ring(head);
        (void)_s.settle(fd(), _in.one_in(2), _in.one_in(2) ? head : _in.number());
        _s.send_late_token(fd());
    }
    void urgent() {
        _s.watch_urgent();
        (void)_s.is_at_mark();
        (void)_s.shows_urgent();
        (void)_s.shows_nothing_else(fd());
        _s.meet_urgent(fd());
    }
    void connect() {
        bool retry = false;
        (void)_s.current();
        (void)_s.await_connected(fd(), false);
        (void)_s.connect_again(fd(), retry);
    }
    void plain() {
        if (_in.one_in(16)) {
            (void)_s.become_plain(fd(), base::deadline(1), proto::plain_cause(_in.below(4)));
        }
        (void)_s.pay(fd());
    }

    void end() {
        auto& h = _s.header();
        if (_in.one_in(2)) {
            h.end[0].flags.fetch_or(shm::end_recalled);  // nobody is waited for
        }
        _s.close_last(fd(), false);
        // So that the next input gets the same memory, the other end has left in order.
        for (auto& e : h.end) {
            e.flags.store(shm::end_left | shm::end_done);
        }
        _s.recycle();
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const int lowest = ::dup(0);
    {
        fuzz::input in(data, size);
        contest(in).run();
    }
    const int now = ::dup(0);
    must(now < lowest + 16, "descriptors are left open");
    ::close(now);
    return 0;
}
