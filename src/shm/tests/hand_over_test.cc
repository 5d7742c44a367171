// Hand-overs between two threads over a real doorbell, counted: a publish whose bytes arrived is one. Every wait has a
// time limit, and one that ends by it is a lost wake-up. VMSGR_HAND_OVERS=100000000 makes the long run of it
// (docs/FACTS.md has the numbers); the count is shared out among the kinds of reader.
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <random>
#include <thread>

#include "shm/tests/ends.hh"

namespace vmsgr::shm {
namespace {

constexpr int lost_ms = 10'000;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr uint64_t otherwise = 500'000;
#else
constexpr uint64_t otherwise = 3'000'000;
#endif

// loop, loop_edge: event loops that are awake for a while and then sleep (preload/event_loop.hh). Their writer sends
// some tokens late.
enum class kind { blocking, spinning, gathering, level, edge, lazy, loop, loop_edge };
constexpr kind kinds[] = {kind::blocking, kind::spinning, kind::gathering, kind::level,
                          kind::edge,     kind::lazy,     kind::loop,      kind::loop_edge};
constexpr const char* names[] = {"blocking", "spinning", "gathering", "level", "edge", "lazy", "loop", "loop_edge"};
constexpr bool is_loop(kind k) { return k == kind::loop || k == kind::loop_edge; }

uint64_t wanted_in_all() {
    const char* v = std::getenv("VMSGR_HAND_OVERS");
    return v != nullptr ? std::strtoull(v, nullptr, 10) : otherwise;
}

struct counts {
    uint64_t done = 0;  // publishes, or bytes read
    uint64_t sleeps = 0;
    bool lost = false;
};

// Bytes in pieces of 1 to 24; now and then a pause, so that the reader falls asleep.
counts produce(ends& e, uint64_t publishes, unsigned seed, std::atomic<uint64_t>& sent, const std::atomic<bool>& stop,
               bool late) {
    std::minstd_rand rng(seed);
    counts c;
    bool owes = false;
    const auto pay = [&] {
        if (std::exchange(owes, false)) {
            e.sender.wake(e.producer_bell);
        }
    };
    while (c.done < publishes && !stop.load(std::memory_order_relaxed)) {
        size_t n = e.put(1 + rng() % 24);
        if (n != 0) {
            ++c.done;
            sent.fetch_add(n, std::memory_order_relaxed);
            owes = true;
            const bool pauses = rng() % 512 == 0;
            if (!late || pauses || rng() % 4 == 0) {
                pay();
            }
            if (pauses) {
                ::usleep(1 + rng() % 64);
            }
            continue;
        }
        pay();
        if (!e.sleep_for_room(c.sleeps, lost_ms)) {
            c.lost = true;
            break;
        }
    }
    pay();
    return c;
}

class consumer {
    ends& _e;
    kind _kind;
    std::minstd_rand _rng;
    base::unique_fd _epoll;
    int _fd;

public:
    counts c;

    consumer(ends& e, kind k, unsigned seed) : _e(e), _kind(k), _rng(seed), _fd(e.consumer_bell.fd()) {
        timeval limit{lost_ms / 1000, 0};
        ::setsockopt(_fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        if (k == kind::edge || k == kind::lazy || k == kind::loop_edge) {
            _epoll.reset(::epoll_create1(EPOLL_CLOEXEC));
            epoll_event ev{};
            ev.events = EPOLLIN | EPOLLET;
            EXPECT_EQ(::epoll_ctl(_epoll.get(), EPOLL_CTL_ADD, _fd, &ev), 0);
        }
    }

    // One read call. False: nothing more will come.
    bool read(const std::atomic<bool>& ended) {
        const bool edges = _epoll.get() >= 0;
        const size_t wanted = _rng() % 8 == 0 ? 1 + _rng() % 16 : 4096;
        size_t done = 0;
        bool may_spin = _kind == kind::spinning;
        bool may_gather = _kind == kind::gathering;
        while (!c.lost) {
            size_t n = 0;
            EXPECT_EQ(_e.receiver.data_bytes(n), look::ok);
            if (n == 0 && may_spin) {
                may_spin = false;
                spin s = _e.receiver.begin_spin(wanted);
                for (int i = 0; i < 500 && !_e.receiver.spin_over(s); ++i) {
                }
                continue;
            }
            if (n == 0) {
                if (!_e.receiver.settle(_e.consumer_bell)) {
                    continue;
                }
                if (done != 0) {
                    return true;
                }
                if (ended.load() && !_e.receiver.has_data()) {
                    return false;
                }
                sleep();
                continue;
            }
            const size_t got = _e.get(std::min(n, wanted - done));
            if (got == 0) {
                continue;
            }
            done += got;
            c.done += got;
            if (got == n && done < wanted && may_gather) {
                may_gather = false;
                spin s = _e.receiver.begin_spin(wanted - done);
                for (int i = 0; i < 500 && !_e.receiver.gathered(s, wanted - done); ++i) {
                }
                continue;
            }
            if (_e.receiver.has_data()) {
                if (edges) {
                    _e.receiver.announce_with_data(_e.consumer_bell);
                }
                _e.receiver.relieve(_e.consumer_bell);
            } else if (_kind == kind::lazy ? _e.receiver.settle_lazily(_e.consumer_bell)
                                           : _e.receiver.settle(_e.consumer_bell)) {
                if (edges && !ended.load()) {
                    sleep();  // a short count: the next byte is an edge
                }
            }
            return true;
        }
        return false;
    }

    // One turn of a loop. False: nothing more will come.
    bool turn(const std::atomic<bool>& ended) {
        uint64_t head = 0;
        bool news = has_news(head);
        for (auto looks = _rng() % 300; !news && looks != 0; --looks) {
            news = has_news(head);
        }
        if (!news && !_e.receiver.has_data()) {
            if (!_e.receiver.settle_lazily(_e.consumer_bell, _kind == kind::loop ? 0 : lazy_tokens_max)) {
                return true;
            }
            if (ended.load() && !_e.receiver.has_data()) {
                return false;
            }
            sleep();
            has_news(head);
        }
        _shown = head;
        const bool whole = _kind == kind::loop_edge || _rng() % 8 != 0;
        size_t got = 0;
        do {
            size_t n = 0;
            EXPECT_EQ(_e.receiver.data_bytes(n), look::ok);
            got = _e.get(std::min<size_t>(n, whole ? 4096 : 1 + _rng() % 16));
            c.done += got;
            _e.receiver.relieve(_e.consumer_bell);
        } while (whole && got != 0);
        return !c.lost;
    }

private:
    uint64_t _shown = 0;

    bool has_news(uint64_t& head) {
        head = _e.words().head.load(std::memory_order_acquire);
        return _e.receiver.has_data() && (_kind == kind::loop || head != _shown);
    }
    void sleep() {
        ++c.sleeps;
        int err = 0;
        epoll_event ev;
        switch (_kind) {
        case kind::blocking:
        case kind::spinning:
        case kind::gathering: c.lost = look_at_bell(_fd, true, err) == bell_look::nothing; break;
        case kind::level:
        case kind::loop: c.lost = !wait_for(_fd, POLLIN, lost_ms); break;
        case kind::edge:
        case kind::loop_edge:
        case kind::lazy: c.lost = ::epoll_wait(_epoll.get(), &ev, 1, lost_ms) != 1; break;
        }
    }
};

class hand_over : public testing::TestWithParam<kind> {};

TEST_P(hand_over, loses_no_wake_up) {
    const uint64_t publishes = wanted_in_all() / std::size(kinds);
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE("seed " + std::to_string(seed));
    ends e;
    std::atomic<uint64_t> sent{0};
    std::atomic<bool> stop{false}, ended{false};
    counts in;
    std::thread producer([&] {
        in = produce(e, publishes, seed, sent, stop, is_loop(GetParam()));
        ended.store(true);
        e.producer_bell.send_token();  // the end, for a reader that sleeps
    });
    consumer out(e, GetParam(), seed + 1);
    while (is_loop(GetParam()) ? out.turn(ended) : out.read(ended)) {
    }
    stop.store(true);
    if (out.c.lost) {
        e.bells.other.reset();  // lets a sleeping producer go
    }
    producer.join();
    EXPECT_FALSE(in.lost) << "the writer slept although there was room";
    EXPECT_FALSE(out.c.lost) << "the reader slept although there was data; head " << e.words().head.load() << " tail "
                             << e.words().tail.load() << " waits " << e.words().consumer_waits.load();
    EXPECT_EQ(in.done, publishes);
    EXPECT_EQ(out.c.done, sent.load());
    std::printf("%llu hand-overs, %u tokens; slept: the reader %llu times, the writer %llu\n",
                (unsigned long long)in.done, e.words().tokens_sent.load(), (unsigned long long)out.c.sleeps,
                (unsigned long long)in.sleeps);
}

INSTANTIATE_TEST_SUITE_P(readers, hand_over, testing::ValuesIn(kinds),
                         [](const auto& i) { return std::string(names[int(i.param)]); });

}  // namespace
}  // namespace vmsgr::shm
