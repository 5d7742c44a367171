// A message channel whose other end puts into the ring what it likes: frames, parts of frames, nonsense, and changes of
// what lies there already. A message that is handed out can be read, and is no longer than this side has said.
#include <string.h>
#include <sys/socket.h>

#include "base/tests/fuzz_input.hh"
#include "client/tests/channel_pair.hh"

namespace {

using namespace vmsgr;
using namespace vmsgr::client;
using fuzz::must;

constexpr uint32_t max_message = 1500;
constexpr uint32_t ring_bytes = 8192;

class contest {
    fuzz::input& _in;
    test::pair _p;

public:
    explicit contest(fuzz::input& in)
        : _in(in), _p(ring_bytes, {.max_message_bytes = max_message, .spin_us = 0}, in.one_in(2)) {}

    void run() {
        if (!_in.one_in(8)) {
            _p.write_hello({.max_message_bytes = uint32_t(1024 + _in.below(4096))});
            (void)_p.a->greet(0);
        }
        while (!_in.empty()) {
            _in.one_in(2) ? attack() : step();
        }
    }

private:
    void attack() {
        auto& words = _p.words(unsigned(_in.below(2)));
        switch (_in.below(8)) {
        case 0:
        case 1:
        case 2: write_frame(); break;
        case 3: {
            const auto bytes = _in.next(_in.below(64));
            _p.write(bytes.data(), bytes.size());
            break;
        }
        case 4: {  // what was published already, perhaps looked at
            const uint64_t back = 8 * _in.below(32);
            const uint64_t at = (_p.words(1).head.load() - back) & (ring_bytes - 1) & ~uint64_t(7);
            store_header(_p.ring(1) + at, header());
            break;
        }
        case 5: lie(words); break;
        case 6: {
            unsigned char token[4];
            memset(token, _in.one_in(8) ? _in.byte() : shm::token_byte, sizeof token);
            ::send(_p.bell.other.get(), token, 1 + _in.below(sizeof token), MSG_DONTWAIT | MSG_NOSIGNAL);
            break;
        }
        default: cut();
        }
    }
    void lie(shm::ring_words& words) {
        const uint64_t by = _in.one_in(2) ? 8 * _in.below(16) : _in.number();
        switch (_in.below(6)) {
        case 0: words.head.fetch_add(by); break;
        case 1: words.tail.fetch_add(by); break;
        case 2: words.base.store(by); break;
        case 3: words.tokens_sent.fetch_add(uint32_t(by)); break;
        case 4: words.flags.store(uint32_t(by)); break;
        default: words.consumer_waits.store(uint32_t(by)); words.window.store(uint32_t(by));
        }
    }
    void cut() {
        switch (_in.below(8)) {
        case 0: _p.flags_of(1).fetch_or(uint32_t(_in.number())); break;
        case 1: ::shutdown(_p.bell.other.get(), SHUT_WR); break;
        case 2: _p.bell.other.reset(); break;
        default: break;
        }
    }
    frame_header header() {
        frame_header h{.bytes = uint32_t(_in.one_in(8) ? _in.number() : _in.below(2 * max_message))};
        if (_in.one_in(8)) {
            h.kind = frame_kind(_in.byte() % 5);
            h.flags = _in.one_in(4) ? _in.byte() : 0;
            h.magic = _in.one_in(4) ? _in.take<uint16_t>() : frame_magic;
        }
        return h;
    }
    // Whole, or as far as the input goes on with something else.
    void write_frame() {
        const frame_header h = header();
        _p.write(h);
        static const std::byte zeros[2 * max_message]{};
        const size_t bytes = padded(std::min<size_t>(h.bytes, sizeof zeros - frame_unit));
        _p.write(zeros, _in.one_in(4) ? _in.below(bytes + 1) : bytes);
    }

    void step() {
        switch (_in.below(8)) {
        case 0: (void)_p.a->greet(0); break;
        case 1:
        case 2:
        case 3: peek(); break;
        case 4: (void)_p.a->release(); break;
        case 5: send(); break;
        case 6: _p.a->flush(); break;
        default:
            if (_in.one_in(8)) {
                _p.a->finish();
            }
        }
    }
    void peek() {
        const std::byte* at = nullptr;
        size_t bytes = 0;
        if (!_p.a->greeted() || (_in.one_in(4) ? _p.a->look(at, bytes) : _p.a->peek(0, at, bytes)) != 0) {
            return;
        }
        must(bytes <= max_message, "a message longer than this side takes");
        must(at != nullptr && reinterpret_cast<uintptr_t>(at) % frame_unit == 0, "a message at an odd place");
        unsigned sum = 0;
        for (size_t i = 0; i < bytes; ++i) {
            sum += unsigned(*const_cast<const volatile std::byte*>(at + i));
        }
        (void)sum;
    }
    void send() {
        static const std::byte bytes[4096]{};
        const size_t n = _in.below(sizeof bytes);
        if (_in.one_in(2)) {
            (void)_p.a->send(bytes, n, _in.one_in(4), 0);
            return;
        }
        std::byte* to = nullptr;
        if (_p.a->reserve(n, 0, to) == 0) {
            memset(to, 1, n);
            must(_p.a->commit(n / 2, false) == 0, "a message that was reserved cannot be sent");
        }
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    fuzz::input in(data, size);
    contest(in).run();
    return 0;
}
