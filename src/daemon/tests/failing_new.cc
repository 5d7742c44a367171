// Allocations that fail when a test says so, for a vmsgrd of its own (vmsgrd_failing; it is not installed). The linker
// gives us each call of operator new of the daemon and of Seastar (--wrap). $VMSGR_FAILING_NEW names the file by which
// the test sees the places in the code where a shard allocates, and says which of them fails, and when. It alone knows
// which are Seastar's own, that may not fail (tests/hostile/failing_new.py).
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <new>
#include <utility>

#include <seastar/core/memory.hh>
#include <seastar/core/reactor.hh>

extern "C" void* __real__Znwm(size_t n);

namespace {

// A place: the call of new, and the call of the function that it is in.
struct place {
    std::atomic<uint64_t> call, caller, count;
};

struct board {
    static constexpr size_t places = 8192;
    std::atomic<uint64_t> program;  // where it was loaded
    std::atomic<uint64_t> on;
    std::atomic<uint64_t> fail_call, fail_caller, fail_in;  // fails when fail_in has come to 0
    std::atomic<uint64_t> failed;
    std::atomic<uint64_t> leave;  // not 0: all but so many bytes of the shard's memory are taken
    place all[places];
};

constexpr auto relaxed = std::memory_order_relaxed;

extern "C" const char __executable_start;

board* open_board() noexcept {
    const char* path = ::getenv("VMSGR_FAILING_NEW");
    const int fd = path != nullptr ? ::open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) {
        return nullptr;
    }
    void* at = ::mmap(nullptr, sizeof(board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ::close(fd);
    if (at == MAP_FAILED) {
        return nullptr;
    }
    static_cast<board*>(at)->program = reinterpret_cast<uint64_t>(&__executable_start);
    return static_cast<board*>(at);
}

// Set before main() and never again.
board* shown = nullptr;
__attribute__((constructor)) void begin() { shown = open_board(); }

void count(board& b, uint64_t call, uint64_t caller) noexcept {
    size_t at = (call ^ caller * 31) % board::places;
    for (size_t tries = 0; tries < board::places; ++tries, at = (at + 1) % board::places) {
        place& p = b.all[at];
        uint64_t none = 0;
        if (p.call.compare_exchange_strong(none, call, relaxed)) {
            p.caller.store(caller, relaxed);
        } else if (none != call || p.caller.load(relaxed) != caller) {
            continue;
        }
        p.count.fetch_add(1, relaxed);
        return;
    }
}

void* chunks = nullptr;

void weigh_down(const board& b) noexcept try {
    const uint64_t leave = b.leave.load(relaxed);
    while (leave != 0 && seastar::memory::free_memory() > leave) {
        constexpr size_t chunk_bytes = 64 << 10;
        void* chunk = __real__Znwm(chunk_bytes);
        *static_cast<void**>(chunk) = std::exchange(chunks, chunk);
    }
    while (leave == 0 && chunks != nullptr) {
        ::operator delete(std::exchange(chunks, *static_cast<void**>(chunks)));
    }
} catch (const std::bad_alloc&) {
}

bool fails(void* call, void** frame) noexcept {
    board* b = shown;
    if (b == nullptr || b->on.load(relaxed) == 0 || !seastar::engine_is_ready()) {
        return false;
    }
    weigh_down(*b);
    // Whoever called keeps frame pointers, or this is no frame of the same stack.
    auto** above = static_cast<void**>(*frame);
    constexpr uintptr_t near = 64 << 10;
    const auto distance = reinterpret_cast<uintptr_t>(above) - reinterpret_cast<uintptr_t>(frame);
    const bool is_frame = distance < near && distance % sizeof(void*) == 0;
    const auto at = reinterpret_cast<uint64_t>(call), caller = is_frame ? reinterpret_cast<uint64_t>(above[1]) : 0;
    count(*b, at, caller);
    return at == b->fail_call.load(relaxed) && caller == b->fail_caller.load(relaxed) &&
           b->fail_in.load(relaxed) != 0 && b->fail_in.fetch_sub(1, relaxed) == 1 && ++b->failed != 0;
}

}  // namespace

#define FAILS() fails(__builtin_return_address(0), static_cast<void**>(__builtin_frame_address(0)))
#define NEW(symbol, parameters, arguments)                                  \
    extern "C" void* __real_##symbol parameters;                            \
    extern "C" __attribute__((noinline)) void* __wrap_##symbol parameters { \
        if (FAILS()) {                                                      \
            throw std::bad_alloc();                                         \
        }                                                                   \
        return __real_##symbol arguments;                                   \
    }

NEW(_Znwm, (size_t n), (n))
NEW(_Znam, (size_t n), (n))
NEW(_ZnwmSt11align_val_t, (size_t n, std::align_val_t at), (n, at))

extern "C" void* __real__ZnwmRKSt9nothrow_t(size_t n, const std::nothrow_t& how);
extern "C" __attribute__((noinline)) void* __wrap__ZnwmRKSt9nothrow_t(size_t n, const std::nothrow_t& how) {
    return FAILS() ? nullptr : __real__ZnwmRKSt9nothrow_t(n, how);
}
