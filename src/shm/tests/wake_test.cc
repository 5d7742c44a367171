// The wake protocol with two threads and a real socketpair: whoever sleeps must be woken. A lost wake-up shows as
// a wait that ends by its time limit, so each wait has one and its end by time fails the test.
#include <poll.h>
#include <sys/epoll.h>

#include <atomic>
#include <random>
#include <thread>

#include "shm/tests/ends.hh"

namespace vmsgr::shm {
namespace {

constexpr int lost_ms = 5000;
constexpr int spins = 200;

enum class reader_kind { level, edge, spinning };

struct counts {
    uint64_t hand_overs = 0;  // publishes and consumes
    uint64_t sleeps = 0;
    bool lost = false;
};

// Sends `total` bytes in pieces of at most piece_max; sleeps for OUT when the ring is full.
counts produce(ends& e, uint64_t total, size_t piece_max, unsigned seed, const std::atomic<bool>& stop) {
    std::minstd_rand rng(seed);
    counts c;
    for (uint64_t sent = 0; sent < total && !stop.load(std::memory_order_relaxed);) {
        size_t n = e.put(std::min<uint64_t>(total - sent, 1 + rng() % piece_max));
        if (n != 0) {
            sent += n;
            ++c.hand_overs;
            e.sender.wake(e.producer_bell);
            continue;
        }
        if (!e.sleep_for_room(c.sleeps, lost_ms)) {
            c.lost = true;
            break;
        }
    }
    return c;
}

class sleeper {
    base::unique_fd _epoll;
    int _fd;

public:
    sleeper(int fd, reader_kind kind) : _fd(fd) {
        if (kind == reader_kind::edge) {
            _epoll.reset(::epoll_create1(EPOLL_CLOEXEC));
            epoll_event ev{};
            ev.events = EPOLLIN | EPOLLET;
            EXPECT_EQ(::epoll_ctl(_epoll.get(), EPOLL_CTL_ADD, fd, &ev), 0);
        }
    }
    bool sleep() {
        if (!_epoll) {
            return wait_for(_fd, POLLIN, lost_ms);
        }
        epoll_event ev;
        return ::epoll_wait(_epoll.get(), &ev, 1, lost_ms) == 1;
    }
};

counts consume(ends& e, uint64_t total, size_t piece_max, unsigned seed, reader_kind kind) {
    std::minstd_rand rng(seed);
    sleeper bed(e.consumer_bell.fd(), kind);
    counts c;
    for (uint64_t taken = 0; taken < total;) {
        size_t n = e.get(1 + rng() % piece_max);
        taken += n;
        c.hand_overs += n != 0;
        if (e.receiver.has_data()) {
            e.receiver.relieve(e.consumer_bell);
            continue;
        }
        for (int i = 0; kind == reader_kind::spinning && i < spins && !e.receiver.has_data(); ++i) {
            e.receiver.stay_awake();
        }
        if (e.receiver.settle(e.consumer_bell) && taken < total) {
            ++c.sleeps;
            if (!bed.sleep()) {
                c.lost = true;
                return c;
            }
        }
    }
    return c;
}

struct shape {
    const char* name;
    uint32_t ring_bytes;
    uint64_t total_bytes;
    size_t put_max, get_max;
    reader_kind reader;
};

class wake : public testing::TestWithParam<shape> {};

TEST_P(wake, nobody_sleeps_for_ever) {
    const shape& s = GetParam();
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE("seed " + std::to_string(seed));
    ends e(s.ring_bytes);
    std::atomic<bool> stop{false};
    counts in;
    std::thread producer([&] { in = produce(e, s.total_bytes, s.put_max, seed, stop); });
    counts out = consume(e, s.total_bytes, s.get_max, seed + 1, s.reader);
    stop.store(true);
    if (out.lost) {
        e.bells.other.reset();  // lets a sleeping producer go
    }
    producer.join();
    EXPECT_FALSE(in.lost) << "producer slept although there was room";
    EXPECT_FALSE(out.lost) << "consumer slept although there was data; head " << e.words().head.load() << " tail "
                           << e.words().tail.load() << " tokens sent " << e.words().tokens_sent.load() << " taken "
                           << e.rx.tokens_taken;
    EXPECT_FALSE(e.consumer_bell.foreign());
    RecordProperty("hand_overs", int(in.hand_overs + out.hand_overs));
    RecordProperty("sleeps", int(in.sleeps + out.sleeps));
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr uint64_t scale = 1;
#else
constexpr uint64_t scale = 8;
#endif
constexpr uint64_t mib = 1 << 20;

INSTANTIATE_TEST_SUITE_P(
    shapes, wake,
    testing::Values(shape{"small_pieces", 4096, 4 * mib* scale, 16, 64, reader_kind::level},
                    shape{"small_pieces_edge", 4096, 4 * mib* scale, 16, 64, reader_kind::edge},
                    shape{"small_pieces_spinning", 4096, 4 * mib* scale, 16, 64, reader_kind::spinning},
                    shape{"slow_reader", 4096, 2 * mib* scale, 4096, 16, reader_kind::level},
                    shape{"slow_reader_edge", 4096, 2 * mib* scale, 4096, 16, reader_kind::edge},
                    shape{"whole_ring", 4096, 32 * mib* scale, 4096, 4096, reader_kind::level},
                    shape{"whole_ring_edge", 4096, 32 * mib* scale, 4096, 4096, reader_kind::edge},
                    shape{"whole_ring_spinning", 4096, 32 * mib* scale, 4096, 4096, reader_kind::spinning}),
    [](const auto& i) { return std::string(i.param.name); });

}  // namespace
}  // namespace vmsgr::shm
