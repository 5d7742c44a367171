// What stands behind the descriptor numbers, without hooks and without a daemon.
#include "preload/objects.hh"

#include <gtest/gtest.h>
#include <signal.h>
#include <ucontext.h>

#include "preload/runtime.hh"

namespace vmsgr::preload {

void close_internal(int) noexcept {}  // no object here has a kernel socket
bool in_vfork_child() noexcept { return false; }
runtime_state& runtime() noexcept {
    static constinit runtime_state none;  // no session
    return none;
}

namespace {

constexpr int number = 500;

struct objects : testing::Test {
    static void SetUpTestSuite() { ASSERT_TRUE(table != nullptr || make_table()); }

    static object* put(int fd, kind what = kind::socket) {
        table_lock l;
        object* o = new_object(what);
        EXPECT_EQ(set_number(fd, o), nullptr);
        return o;
    }
    static object* clear(int fd) {
        table_lock l;
        return clear_number(fd);
    }
};

TEST_F(objects, is_freed_with_its_last_number) {
    object* o = put(number);
    {
        table_lock l;
        EXPECT_EQ(add_alias(number, number + 1), nullptr);
    }
    EXPECT_EQ(clear(number), nullptr);
    EXPECT_EQ(clear(number + 1), o);
    finish(o);
    EXPECT_EQ(o->what, kind::none);
}

TEST_F(objects, call_under_way_keeps_it) {
    object* o = put(number);
    {
        use u(number);
        EXPECT_EQ(clear(number), o);
        finish(o);
        EXPECT_EQ(u->what, kind::socket);
    }
    EXPECT_EQ(o->what, kind::none);
}

TEST_F(objects, alias_returns_what_a_number_closed_behind_our_back_had) {
    object* o = put(number);
    object* stale = put(number + 1);
    {
        table_lock l;
        EXPECT_EQ(add_alias(number, number + 1), stale);
        EXPECT_EQ(at_number(number + 1), o);
    }
    finish(stale);
    EXPECT_EQ(stale->what, kind::none);
    clear(number);
    finish(clear(number + 1));
}

// The processor's own single step: the handler runs after each instruction until it is told to stop.
constexpr long trap_flag = 0x100;
int steps_left;  // until the number is closed
void close_in_between(int, siginfo_t*, void* context) {
    if (--steps_left == 0) {
        static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] &= ~trap_flag;
        finish(objects::clear(number));
    }
}
// Leaves the red zone below the stack pointer alone.
__attribute__((always_inline)) inline void start_steps() {
    asm volatile("lea -128(%%rsp), %%rsp; pushfq; orq $0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::
                     : "memory", "cc");
}
__attribute__((always_inline)) inline void stop_steps() {
    asm volatile("lea -128(%%rsp), %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::
                     : "memory", "cc");
}

// The last call on an object ends while another thread closes its number: wherever that falls, one of the two frees it.
TEST_F(objects, one_of_close_and_last_call_frees_it) {
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "ThreadSanitizer's own calls would be stepped through, and it runs handlers when it likes to";
#endif
    struct sigaction a{}, before;
    a.sa_sigaction = close_in_between;
    a.sa_flags = SA_SIGINFO;
    ASSERT_EQ(::sigaction(SIGTRAP, &a, &before), 0);
    constexpr int steps_max = 3000;
    int step = 1;
    for (bool closed = true; closed && step < steps_max; ++step) {
        object* o = put(number);
        use u(number);
        steps_left = step;
        start_steps();
        u.drop();
        stop_steps();
        closed = steps_left <= 0;
        if (!closed) {
            finish(clear(number));
        }
        ASSERT_EQ(o->what, kind::none) << "nobody freed it; closed after " << step << " instructions";
    }
    ::sigaction(SIGTRAP, &before, nullptr);
    EXPECT_GT(step, 5);
    EXPECT_LT(step, steps_max) << "the call never ended before the close";
}

}  // namespace
}  // namespace vmsgr::preload
