#include "client/streams/late_tokens.hh"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>

#include "base/background.hh"
#include "base/clock.hh"
#include "base/pages.hh"
#include "base/signal_lock.hh"
#include "base/sys.hh"
#include "client/kept_fds.hh"
#include "client/streams/held_back.hh"

// Of glibc 2.32 and later: this process never had a second thread.
extern "C" {
extern char __libc_single_threaded __attribute__((weak));
}

namespace vmsgr::client {

namespace {

constexpr uint32_t owed_max = 64;
constexpr uint32_t loops_max = 1024;  // threads that may owe
constexpr int64_t late_ns = 100'000, period_ns = 800'000, long_turn_ns = 1'000'000;
// The ringer is worth its wake-ups where so many tokens in so many of its periods are to be sent.
constexpr uint32_t often = 16, often_periods = 25;
constexpr int64_t doze_ns = 10'000'000;
constexpr int dozes_max = 100;

struct owed {
    std::atomic<int> fd;
    std::atomic<const stream*> to;
};

// Of one thread, which writes it; the ringer reads. What it reads half changed names no stream, or one that owes
// nothing.
struct debts {
    std::atomic<uint32_t> n{0};
    std::atomic<int64_t> since_ns{0};
    owed of[owed_max]{};
    bool in_turn = false;
    bool wants_ringer = false;
    int64_t turn_began_ns = 0;  // where tokens may be owed
    std::atomic<bool> in_use{true};  // its thread lives

    void pay() const noexcept {
        const uint32_t all = n.load(std::memory_order_acquire);
        for (uint32_t i = 0; i < all; ++i) {
            ring_late(of[i].fd.load(std::memory_order_relaxed), of[i].to.load(std::memory_order_relaxed));
        }
    }
};

__attribute__((tls_model("initial-exec"))) constinit thread_local debts* mine = nullptr;
constinit std::atomic<debts*> all_debts[loops_max]{};
constinit std::atomic<uint32_t> threads{0};

// Until each says true.
template <typename Each>
void go_through_debts(Each&& each) noexcept {
    const uint32_t n = std::min(threads.load(std::memory_order_acquire), loops_max);
    for (uint32_t i = 0; i < n; ++i) {
        debts* d = all_debts[i].load(std::memory_order_acquire);  // null: there was no memory, or is not yet
        if (d != nullptr && each(*d)) {
            return;
        }
    }
}

// dozing: asleep for doze_ns at most, which is soon enough for bytes that are held back.
enum ringer_state : uint32_t { none, starting, awake, dozing, asleep, stopping, never };
constinit std::atomic<uint32_t> ringer{none};
constinit std::atomic<uint32_t> tokens{0};  // of readers that slept, in turns: since the ringer looked last, or sleeps
constinit std::atomic<int64_t> counted_from_ns{0};

bool pay_old(int64_t now_ns) noexcept {
    bool any = false;
    go_through_debts([&](const debts& d) noexcept {
        const bool owes = d.n.load(std::memory_order_acquire) != 0;
        any = any || owes;
        if (owes && now_ns - d.since_ns.load(std::memory_order_relaxed) >= late_ns) {
            d.pay();
        }
        return false;
    });
    return any;
}

// False: the ringer is to end.
bool become(uint32_t state) noexcept {
    uint32_t now = ringer.load(std::memory_order_seq_cst);
    while (now != stopping && !ringer.compare_exchange_weak(now, state)) {
    }
    return now != stopping;
}

// Until somebody calls it. dozes: so often it looks at what is held back, and once more each time for what it finds.
void rest(int dozes) noexcept {
    for (;;) {
        const uint32_t how = dozes > 0 ? dozing : asleep;
        // After it said so: who owes from now on wakes it, or sends by itself.
        if (!become(how) || pay_old(base::now_ns()) || (how == asleep && is_any_held_back())) {
            return;
        }
        constexpr timespec doze{0, doze_ns};
        sys::call(SYS_futex, &ringer, FUTEX_WAIT_PRIVATE, how, how == dozing ? &doze : nullptr, nullptr, 0);
        if (ringer.load(std::memory_order_seq_cst) != dozing) {
            return;
        }
        dozes = show_late_bytes() ? dozes_max : dozes - 1;
    }
}

void* ring_what_is_late(void*) {
    for (uint32_t periods = 0; become(awake); ++periods) {
        const bool owes = pay_old(base::now_ns());
        const bool holds = show_late_bytes();
        if (periods >= often_periods) {
            periods = 0;
            if (tokens.exchange(0, std::memory_order_relaxed) < often && !owes) {
                rest(holds ? dozes_max : 0);
                continue;
            }
        }
        constexpr timespec period{0, period_ns};
        sys::call(SYS_nanosleep, &period, nullptr);
    }
    ringer.store(never, std::memory_order_seq_cst);
    return nullptr;
}

bool has_threads() noexcept { return &__libc_single_threaded != nullptr && __libc_single_threaded == 0; }

void thread_ends(void* d) noexcept {
    auto& its = *static_cast<debts*>(d);
    mine = nullptr;
    its.pay();
    its.n.store(0, std::memory_order_release);
    its.in_turn = false;
    its.in_use.store(false, std::memory_order_release);
}

debts* take_old() noexcept {
    debts* taken = nullptr;
    go_through_debts([&](debts& d) noexcept {
        bool in_use = false;
        taken = d.in_use.compare_exchange_strong(in_use, true) ? &d : nullptr;
        return taken != nullptr;
    });
    return taken;
}

debts* make_new() noexcept {
    const uint32_t at = threads.load(std::memory_order_relaxed) < loops_max ? threads.fetch_add(1) : loops_max;
    void* memory = at < loops_max ? base::new_pages(sizeof(debts)) : nullptr;
    if (memory == nullptr) {
        return nullptr;
    }
    auto* d = new (memory) debts;
    all_debts[at].store(d, std::memory_order_release);
    return d;
}

// Not in a signal handler. Null: this thread owes nothing, ever.
debts* debts_of_this_thread() noexcept {
    static pthread_key_t key;
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static std::atomic<bool> has_key{false};
    pthread_once(&once, [] { has_key.store(pthread_key_create(&key, &thread_ends) == 0); });
    debts* d = has_key.load() ? take_old() : nullptr;
    d = d != nullptr || !has_key.load() ? d : make_new();
    if (d != nullptr && pthread_setspecific(key, d) != 0) {
        d->in_use.store(false, std::memory_order_release);
        d = nullptr;
    }
    return d;
}

// The ringer runs.
bool has_ringer() noexcept { return ringer.load(std::memory_order_seq_cst) == awake; }

// One more was sent, while no ringer runs.
bool are_sent_often(int64_t now_ns) noexcept {
    if (now_ns - counted_from_ns.load(std::memory_order_relaxed) > period_ns * often_periods) {
        counted_from_ns.store(now_ns, std::memory_order_relaxed);
        tokens.store(0, std::memory_order_relaxed);
    }
    return tokens.fetch_add(1, std::memory_order_relaxed) >= often;
}

void wake_ringer_from(uint32_t resting) noexcept {
    if (ringer.compare_exchange_strong(resting, awake)) {
        sys::call(SYS_futex, &ringer, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
    }
}

// True: it is being started, by this thread or another.
bool start_ringer() noexcept {
    uint32_t no_ringer = none;
    if (!ringer.compare_exchange_strong(no_ringer, starting)) {
        return no_ringer != stopping && no_ringer != never;
    }
    if (base::start_background(&ring_what_is_late)) {
        return true;
    }
    ringer.store(none);
    show_all_held_back();  // of those who counted on it
    return false;
}

// Not in a signal handler: a thread may be started.
void call_ringer() noexcept {
    const uint32_t state = ringer.load(std::memory_order_relaxed);
    if (state == none) {
        start_ringer();
    } else if (state == asleep || state == dozing) {
        wake_ringer_from(state);
    }
}

// A signal is blocked: this may be its handler, where no thread can be started.
bool may_be_handler() noexcept {
    base::kernel_sigset blocked = 0;
    return sys::call(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &blocked, sizeof blocked) != 0 || blocked != 0;
}

}  // namespace

void end_turn() noexcept {
    debts* d = mine;
    if (d == nullptr || !d->in_turn) {
        return;
    }
    d->in_turn = false;
    if (d->n.load(std::memory_order_relaxed) != 0) {
        const int saved = errno;
        d->pay();
        d->n.store(0, std::memory_order_release);
        errno = saved;
    }
}

void begin_turn() noexcept {
    if (mine == nullptr) {
        if (!has_threads() || (mine = debts_of_this_thread()) == nullptr) {
            return;
        }
    }
    debts& d = *mine;
    if (d.wants_ringer) {
        d.wants_ringer = false;
        call_ringer();
    }
    d.in_turn = true;
    d.turn_began_ns = has_ringer() ? base::now_ns() : 0;
}

bool start_ringer_for_held_back() noexcept {
    const uint32_t state = ringer.load(std::memory_order_relaxed);
    return state != none ? state != never && state != stopping : !may_be_handler() && start_ringer();
}

bool wake_ringer_for_held_back() noexcept {
    uint32_t state = ringer.load(std::memory_order_seq_cst);
    if (state == asleep) {
        wake_ringer_from(state);
        state = ringer.load(std::memory_order_seq_cst);
    }
    return state != none && state != stopping && state != never;
}

bool is_in_turn() noexcept { return mine != nullptr && mine->in_turn; }

bool owe_token(int fd, const stream& s) noexcept {
    debts* d = mine;
    if (!has_ringer()) {
        d->wants_ringer = are_sent_often(base::now_ns());
        return false;
    }
    tokens.fetch_add(1, std::memory_order_relaxed);
    const uint32_t n = d->n.load(std::memory_order_relaxed);
    if (n == owed_max) {
        return false;
    }
    if (n == 0) {
        const int64_t now_ns = base::now_ns();
        if (now_ns - d->turn_began_ns > long_turn_ns) {
            return false;  // this thread does something else now
        }
        d->since_ns.store(now_ns, std::memory_order_relaxed);
    }
    d->of[n].fd.store(fd, std::memory_order_relaxed);
    d->of[n].to.store(&s, std::memory_order_relaxed);
    d->n.store(n + 1, std::memory_order_seq_cst);
    if (has_ringer()) {
        return true;  // if it is about to sleep, it looks once more
    }
    d->n.store(n, std::memory_order_relaxed);
    return false;
}

void pay_owed_tokens() noexcept {
    go_through_debts([](const debts& d) noexcept {
        d.pay();
        return false;
    });
    show_all_held_back();
}

void stop_ringer() noexcept {
    pay_owed_tokens();
    for (uint32_t now = ringer.load(); now != never;) {
        if (now == none) {
            ringer.compare_exchange_strong(now, never);
        } else if (now != stopping && ringer.compare_exchange_strong(now, stopping)) {
            sys::call(SYS_futex, &ringer, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
        }
        constexpr timespec moment{0, 100'000};
        sys::call(SYS_nanosleep, &moment, nullptr);
        now = ringer.load();
    }
}

void forget_owed_tokens() noexcept {
    go_through_debts([](debts& d) noexcept {
        d.n.store(0, std::memory_order_relaxed);
        d.in_turn = false;
        d.in_use.store(&d == mine, std::memory_order_relaxed);
        return false;
    });
    forget_held_back();
    if (ringer.load() != never) {
        ringer.store(none);
    }
}

}  // namespace vmsgr::client
