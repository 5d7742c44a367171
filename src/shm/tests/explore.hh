// Runs the ring's own code in chosen interleavings: threads are fibers, and each access to a shared word and each call
// to the doorbell is a point where the explorer decides who goes on. Stores wait in a buffer of their thread, as on
// x86, until a locked instruction or a fence drains it, or the explorer lets the oldest go; without that no missing
// fence would show. One thread of the system only.
//
// A run is decided by its choices: all of them in turn (exhaustive, up to a number of preemptions), or from a seed.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "shm/tests/explore_faults.hh"
#include "shm/wake.hh"

namespace vmsgr::shm::explore {

struct tokens {
    uint32_t there = 0;
    uint32_t unwritable_at = 4;
    uint32_t refused_at = 8;
};

class world;
inline thread_local world* running = nullptr;

// How the explorer decides.
class chooser {
    std::vector<std::pair<unsigned, unsigned>> _path;  // chosen, of how many
    size_t _at = 0;
    bool _random = false;
    std::mt19937_64 _rng;

public:
    void seed(uint64_t s) {
        _random = true;
        _rng.seed(s);
    }
    bool random() const { return _random; }
    unsigned choose(unsigned n) {
        if (n <= 1) {
            return 0;
        }
        if (_random) {
            return unsigned(_rng() % n);
        }
        if (_at == _path.size()) {
            _path.emplace_back(0, n);
        }
        return _path[_at++].first;
    }
    bool percent(unsigned p) { return _rng() % 100 < p; }
    // The next of all paths; false: that was the last.
    bool next() {
        _at = 0;
        while (!_path.empty() && _path.back().first + 1 == _path.back().second) {
            _path.pop_back();
        }
        if (_path.empty()) {
            return false;
        }
        ++_path.back().first;
        return true;
    }
};

enum class sleep_on : uint8_t { nothing, in, out, in_edge, out_edge, lock, for_ever };

struct robust_lock {
    int owner = -1;
    bool orphaned = false;
};

class world {
public:
    struct pending_store {
        uint64_t* word;
        uint64_t value;
    };
    struct fiber {
        std::function<void()> body;
        std::unique_ptr<char[]> stack;
        ucontext_t context;
        jmp_buf at;
        bool started = false, done = false, producer = false, in_call = false;
        int process = 0;
        sleep_on asleep = sleep_on::nothing;
        robust_lock* wanted = nullptr;
        bool in_edge = false, out_edge = false;
        std::deque<pending_store> stores;
    };
    struct event {
        int who;
        const char* what;
        uint64_t value;
    };
    enum : size_t { stack_bytes = 64 << 10, steps_max = 20000 };

    chooser& choices;
    fault broken;
    tokens q;
    bool producer_gone = false, consumer_gone = false;
    int killable = -1;  // this process may be killed at any point
    unsigned heirs = 0;  // so often another takes its place, who has its end of the doorbell and nothing else
    std::function<void()> heir;
    bool may_refuse = false;  // tokens, by a full socket
    unsigned preemptions_left;
    std::string error;
    std::vector<event> events;
    std::function<void()> at_rest;

    world(chooser& c, fault f, unsigned preemptions) : choices(c), broken(f), preemptions_left(preemptions) {}

    void add(bool producer, int process, std::function<void()> body) {
        auto& f = *_fibers.emplace_back(std::make_unique<fiber>());
        f.body = std::move(body);
        f.producer = producer;
        f.process = process;
        if (running == this) {
            f.stack = take_stack();
        }
    }
    fiber& self() { return *_fibers[size_t(_current)]; }
    int self_id() const { return _current; }
    const std::vector<std::unique_ptr<fiber>>& fibers() const { return _fibers; }

    // Runs until nobody can go on.
    void run(std::vector<std::unique_ptr<char[]>>& stacks) {
        running = this;
        _stacks = &stacks;
        for (auto& f : _fibers) {
            f->stack = take_stack();
        }
        if (_setjmp(_main) == 0) {
            schedule();
        }
        for (auto& f : _fibers) {
            stacks.push_back(std::move(f->stack));
        }
        running = nullptr;
    }

    // A point where another may run; the step named comes after it.
    void point(const char* what, uint64_t value = 0) {
        schedule();
        note(what, value);
    }
    void note(const char* what, uint64_t value = 0) { events.push_back({_current, what, value}); }
    void sleep(sleep_on on, const char* what) {
        self().asleep = on;
        point(what);
        self().asleep = sleep_on::nothing;
        if (on == sleep_on::in_edge) {
            self().in_edge = false;
        }
        if (on == sleep_on::out_edge) {
            self().out_edge = false;
        }
    }
    [[noreturn]] void fail(std::string why) {
        error = std::move(why);
        _longjmp(_main, 1);
    }

    uint64_t load(uint64_t& word) {
        auto& s = self().stores;
        for (auto it = s.rbegin(); it != s.rend(); ++it) {
            if (it->word == &word) {
                return it->value;
            }
        }
        return word;
    }
    void store(uint64_t& word, uint64_t value) { self().stores.push_back({&word, value}); }
    void drain() { drain(self()); }
    bool all_drained() const {
        return std::all_of(_fibers.begin(), _fibers.end(), [](auto& f) { return f->stores.empty(); });
    }

    void enter_call() { self().in_call = true; }
    void leave_call() {
        self().in_call = false;
        if (all_drained() && std::none_of(_fibers.begin(), _fibers.end(), [](auto& f) { return f->in_call; })) {
            at_rest();
        }
    }
    // Also an unlock drains: it is a locked instruction.
    bool lock(robust_lock& l) {
        self().wanted = &l;
        sleep(sleep_on::lock, "lock");
        drain();
        l.owner = _current;
        return std::exchange(l.orphaned, false);
    }
    void unlock(robust_lock& l) {
        point("unlock");
        drain();
        l.owner = -1;
    }

    bool readable() const { return q.there != 0 || producer_gone; }
    bool writable() const { return q.there < q.unwritable_at; }
    void close_side(bool producer) {
        bool last = std::none_of(_fibers.begin(), _fibers.end(),
                                 [&](auto& f) { return f->producer == producer && !f->done; });
        if (last) {
            (producer ? producer_gone : consumer_gone) = true;
            wake_edges();
        }
    }
    void wake_edges() {
        for (auto& f : _fibers) {
            f->in_edge = true;
            f->out_edge = true;
        }
    }
    std::string report() const {
        std::ostringstream out;
        out << error << "\n";
        size_t from = events.size() > 120 ? events.size() - 120 : 0;
        for (size_t i = from; i < events.size(); ++i) {
            const event& e = events[i];
            out << "  " << (e.who < 0 ? '-' : char('0' + e.who)) << ' ' << e.what << ' ' << e.value << "\n";
        }
        return out.str();
    }

private:
    std::vector<std::unique_ptr<char[]>>* _stacks = nullptr;
    std::vector<std::unique_ptr<fiber>> _fibers;
    int _current = -1;
    size_t _steps = 0;
    jmp_buf _main;

    std::unique_ptr<char[]> take_stack() {
        if (_stacks->empty()) {
            return std::make_unique<char[]>(stack_bytes);
        }
        auto s = std::move(_stacks->back());
        _stacks->pop_back();
        return s;
    }
    static void drain(fiber& f) {
        while (!f.stores.empty()) {
            flush_one(f);
        }
    }
    static void flush_one(fiber& f) {
        *f.stores.front().word = f.stores.front().value;
        f.stores.pop_front();
    }
    bool runnable(const fiber& f) const {
        if (f.done) {
            return false;
        }
        switch (f.asleep) {
        case sleep_on::nothing: return true;
        case sleep_on::in: return readable();
        case sleep_on::out: return writable() || consumer_gone;
        case sleep_on::in_edge: return f.in_edge;
        case sleep_on::out_edge: return f.out_edge;
        case sleep_on::lock: return f.wanted->owner < 0;
        case sleep_on::for_ever: return false;
        }
        return false;
    }
    // An action: a fiber's number goes on; -1 - n: the oldest store of fiber n leaves its buffer; kill: as named.
    static constexpr int kill_now = 1000;
    void schedule() {
        for (;;) {
            if (++_steps > steps_max) {
                fail("no end: somebody spins for ever");
            }
            int actions[32];
            unsigned n = 0;
            bool goes_on = _current >= 0 && runnable(self());
            if (goes_on) {
                actions[n++] = _current;
            }
            // At random a step is followed by the next of the same thread two times out of three.
            bool others = !goes_on || (choices.random() ? choices.percent(35) : preemptions_left != 0);
            for (int i = 0; others && i < int(_fibers.size()); ++i) {
                if (i != _current && runnable(*_fibers[size_t(i)])) {
                    actions[n++] = i;
                }
            }
            for (int i = 0; (others || n == 0) && i < int(_fibers.size()); ++i) {
                if (!_fibers[size_t(i)]->stores.empty()) {
                    actions[n++] = -1 - i;
                }
            }
            if (killable >= 0 && (others || !choices.random()) && (!choices.random() || choices.percent(10))) {
                actions[n++] = kill_now;
            }
            if (n == 0) {
                _longjmp(_main, 1);
            }
            int a = actions[choices.choose(n)];
            if (a == kill_now) {
                kill(std::exchange(killable, -1));
                continue;
            }
            if (a < 0) {
                flush_one(*_fibers[size_t(-1 - a)]);
                continue;
            }
            if (goes_on && a != _current) {
                --preemptions_left;
            }
            switch_to(a);
            return;
        }
    }
    void take_place(int process) {
        bool producer = false;
        for (auto& f : _fibers) {
            if (f->process == process && !f->done) {
                drain(*f);
                f->done = true;
                f->in_call = false;
                producer = f->producer;
            }
        }
        add(producer, process, heir);
        auto& f = *_fibers.back();
        f.in_call = f.in_edge = f.out_edge = true;
        if (--heirs > 0) {
            killable = process;
        }
    }
    void kill(int process) {
        note("killed", uint64_t(process));
        if (heirs > 0) {
            take_place(process);
            return;
        }
        bool producer = false;
        for (size_t i = 0; i < _fibers.size(); ++i) {
            auto& f = *_fibers[i];
            if (f.process == process && !f.done) {
                drain(f);  // what has retired is stored
                f.done = true;
                f.in_call = false;
                producer = f.producer;
                for (auto* l : locks) {
                    if (l->owner == int(i)) {
                        *l = {-1, true};
                    }
                }
            }
        }
        close_side(producer);
    }
    void switch_to(int next) {
        if (next == _current) {
            return;
        }
        int from = std::exchange(_current, next);
        if (from >= 0 && _setjmp(_fibers[size_t(from)]->at) != 0) {
            return;
        }
        fiber& f = *_fibers[size_t(next)];
        if (std::exchange(f.started, true)) {
            _longjmp(f.at, 1);
        }
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.get();
        f.context.uc_stack.ss_size = stack_bytes;
        f.context.uc_link = nullptr;
        makecontext(&f.context, &world::begin, 0);
        setcontext(&f.context);
    }
    static void begin() {
        world& w = *running;
        fiber& f = w.self();
        f.body();
        w.drain();
        f.done = true;
        f.in_call = false;
        w.close_side(f.producer);
        w.schedule();
    }

public:
    std::vector<robust_lock*> locks;
};

}  // namespace vmsgr::shm::explore
