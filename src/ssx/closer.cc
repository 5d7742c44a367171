#include "ssx/closer.hh"

#include <signal.h>

#include <bit>
#include <chrono>
#include <semaphore>
#include <thread>
#include <vector>

#include "base/file_id.hh"
#include "base/sockets.hh"
#include "ssx/syscall_alarm.hh"

namespace vmsgr::ssx {

namespace {

constexpr unsigned quick_threads = 2;
constexpr unsigned patient_threads = 4;
// Between two looks at files of users who have a thread already.
constexpr auto turn_time = std::chrono::milliseconds(20);

struct item {
    int fd = -1;
    closing_account* sender = nullptr;
};

// A ring of cells with sequence numbers: any thread puts, any takes. Nobody waits for a lock, at most for a thread that
// is between two instructions.
class queue {
    struct cell {
        std::atomic<uint64_t> turn{0};
        item what;
    };
    std::vector<cell> _cells;
    const uint64_t _mask;
    alignas(64) std::atomic<uint64_t> _in{0};
    alignas(64) std::atomic<uint64_t> _out{0};
    std::counting_semaphore<> _filled{0};

public:
    explicit queue(uint32_t size) : _cells(std::bit_ceil(size)), _mask(_cells.size() - 1) {
        for (size_t i = 0; i < _cells.size(); ++i) {
            _cells[i].turn.store(i, std::memory_order_relaxed);
        }
    }

    // There is room: size is all that may wait. Only the cell may still be in the hands of who takes it, as others that
    // came later have gone already; then it waits as take() does.
    void put(item what) noexcept {
        uint64_t at = _in.load(std::memory_order_relaxed);
        for (;;) {
            cell& c = _cells[at & _mask];
            const int64_t ahead = int64_t(c.turn.load(std::memory_order_acquire) - at);
            if (ahead == 0 && _in.compare_exchange_weak(at, at + 1, std::memory_order_relaxed)) {
                c.what = what;
                c.turn.store(at + 1, std::memory_order_release);
                _filled.release();
                return;
            }
            if (ahead < 0) {
                std::this_thread::yield();
            }
            at = ahead == 0 ? at : _in.load(std::memory_order_relaxed);
        }
    }

    // Waits.
    item take() noexcept {
        _filled.acquire();
        const uint64_t at = _out.fetch_add(1, std::memory_order_relaxed);
        cell& c = _cells[at & _mask];
        while (c.turn.load(std::memory_order_acquire) != at + 1) {
            std::this_thread::yield();  // another thread is about to put it
        }
        const item what = c.what;
        c.turn.store(at + _cells.size(), std::memory_order_release);
        return what;
    }
};

}  // namespace

struct closer::shared {
    const uint32_t waiting_max;
    std::atomic<uint32_t> waiting{0};
    std::atomic<uint64_t> closed{0};
    queue quick, patient;  // neither is ever full: both have room for all that may wait

    explicit shared(uint32_t most) : waiting_max(most), quick(most), patient(most) {}

    void done(const item& i) noexcept {
        closed.fetch_add(1, std::memory_order_relaxed);
        waiting.fetch_sub(1, std::memory_order_relaxed);
        i.sender->waiting.fetch_sub(1, std::memory_order_release);
    }

    [[noreturn]] void close_quickly() {
        syscall_alarm alarm;
        alarm.start();
        for (;;) {
            const item i = quick.take();
            if (!ends_soon(i.fd)) {
                patient.put(i);
                continue;
            }
            if (base::socket_option(i.fd, SO_ACCEPTCONN) !=
                1) {  // a listening one is a program's, and keeps its options
                base::stop_lingering(i.fd);
            }
            alarm.guard([&i] { return base::unique_fd(i.fd).reset(), true; });
            done(i);
        }
    }

    [[noreturn]] void close_patiently() noexcept {
        for (;;) {
            const item i = patient.take();
            if (i.sender->has_thread.exchange(true, std::memory_order_acquire)) {
                patient.put(i);
                std::this_thread::sleep_for(turn_time);
                continue;
            }
            base::unique_fd(i.fd).reset();
            i.sender->has_thread.store(false, std::memory_order_release);
            done(i);
        }
    }
};

closer::closer(uint32_t waiting_max) : _shared(new shared(waiting_max)) {
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);  // theirs from the start
    for (unsigned i = 0; i < quick_threads; ++i) {
        std::thread([s = _shared] { s->close_quickly(); }).detach();
    }
    for (unsigned i = 0; i < patient_threads; ++i) {
        std::thread([s = _shared] { s->close_patiently(); }).detach();
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

bool closer::close(base::unique_fd& fd, closing_account& sender) noexcept {
    if (!fd) {
        return true;
    }
    if (_shared->waiting.fetch_add(1, std::memory_order_relaxed) >= _shared->waiting_max) {
        _shared->waiting.fetch_sub(1, std::memory_order_relaxed);
        return false;
    }
    sender.waiting.fetch_add(1, std::memory_order_relaxed);
    _shared->quick.put({fd.release(), &sender});
    return true;
}

bool closer::ends_soon(int fd) noexcept { return base::socket_option(fd, SO_TYPE) >= 0 || base::is_memory(fd); }

uint32_t closer::waiting() const noexcept { return _shared->waiting.load(std::memory_order_relaxed); }
uint64_t closer::closed() const noexcept { return _shared->closed.load(std::memory_order_relaxed); }

}  // namespace vmsgr::ssx
