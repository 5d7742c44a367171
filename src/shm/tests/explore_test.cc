// The ring's own code in every order that x86 allows (exhaustive, small), and in very many (random, larger); and the
// mistakes that the explorer has to find. A failure prints its steps; a random one also its seed, and
// VMSGR_EXPLORE_SEED=... runs that one alone. VMSGR_EXPLORE_RUNS=... sets how many random runs each plan gets.
#include <gtest/gtest.h>

#include <cstdlib>

#include "shm/tests/explore_worker.hh"

namespace vmsgr::shm::explore {
namespace {

std::vector<std::unique_ptr<char[]>> stacks;

// Empty, or what went wrong and how.
std::string run_once(const plan& p, chooser& c, unsigned preemptions, fault f) {
    world w(c, f, preemptions);
    auto s = p.daemon == plan::worker::none ? std::make_unique<scene>(p, w) : std::make_unique<worker_scene>(p, w);
    w.run(stacks);
    if (w.error.empty()) {
        s->check_end();
    }
    return w.error.empty() ? "" : w.report();
}

struct outcome {
    uint64_t runs = 0;
    bool complete = false;
    std::string error;
};

outcome exhaust(const plan& p, unsigned preemptions, uint64_t runs_max, fault f = fault::none) {
    chooser c;
    outcome o;
    do {
        if (o.runs++ == runs_max) {
            return o;
        }
        o.error = run_once(p, c, preemptions, f);
    } while (o.error.empty() && c.next());
    o.complete = o.error.empty();
    return o;
}

outcome at_random(const plan& p, uint64_t runs, uint64_t seed, fault f = fault::none) {
    outcome o;
    for (; o.runs < runs && o.error.empty(); ++o.runs, ++seed) {
        chooser c;
        c.seed(seed);
        o.error = run_once(p, c, ~0u, f);
        if (!o.error.empty()) {
            o.error = "seed " + std::to_string(seed) + ": " + o.error;
        }
    }
    return o;
}

uint64_t number(const char* name, uint64_t otherwise) {
    const char* v = std::getenv(name);
    return v != nullptr ? std::strtoull(v, nullptr, 10) : otherwise;
}

using r = reader;
const plan plans[] = {
    {.name = "blocking", .readers = {r::blocking}},
    {.name = "polling", .readers = {r::polling}},
    {.name = "level", .readers = {r::level}, .exact = true},
    {.name = "low_mark", .readers = {r::level}, .bytes = 5, .low = 2},
    {.name = "low_mark_edges", .readers = {r::edge}, .bytes = 5, .low = 2},
    {.name = "edge", .readers = {r::edge}},
    {.name = "lazy", .readers = {r::lazy}},
    {.name = "spinning", .readers = {r::spinning}},
    {.name = "gathering", .readers = {r::gathering}},
    {.name = "loop", .readers = {r::loop}},
    {.name = "loop_edge", .readers = {r::loop_edge}},
    {.name = "full_loop", .readers = {r::loop}, .bytes = 9},
    {.name = "full_loop_edge", .readers = {r::loop_edge}, .bytes = 9, .edge_writer = true},
    {.name = "loop_and_level", .readers = {r::loop, r::level}},
    {.name = "loop_edge_and_blocking", .readers = {r::loop_edge, r::blocking}},
    {.name = "loop_writer_killed", .readers = {r::loop}, .killed = 0},
    {.name = "loop_edge_writer_killed", .readers = {r::loop_edge}, .killed = 0},
    {.name = "fin_loop", .readers = {r::loop}, .fin = true},
    {.name = "late_level", .readers = {r::level}, .bytes = 6, .late = true},
    {.name = "late_edge", .readers = {r::lazy}, .bytes = 6, .late = true},
    {.name = "late_loop", .readers = {r::loop}, .bytes = 6, .late = true},
    {.name = "late_loop_edge", .readers = {r::loop_edge}, .bytes = 9, .edge_writer = true, .late = true},
    {.name = "late_two_writers", .readers = {r::level}, .bytes = 6, .writers = 2, .late = true},
    {.name = "full_level", .readers = {r::level}, .bytes = 9, .exact = true},
    {.name = "full_edges", .readers = {r::edge}, .bytes = 9, .edge_writer = true},
    {.name = "full_lazy", .readers = {r::lazy}, .bytes = 9, .edge_writer = true},
    {.name = "full_spinning", .readers = {r::spinning}, .bytes = 9},
    {.name = "full_gathering", .readers = {r::gathering}, .bytes = 9},
    {.name = "two_readers", .readers = {r::level, r::blocking}},
    {.name = "two_edge_readers", .readers = {r::edge, r::lazy}},
    {.name = "two_spinning", .readers = {r::spinning, r::spinning}},
    {.name = "spinning_and_level", .readers = {r::spinning, r::level}},
    {.name = "gathering_and_level", .readers = {r::gathering, r::level}},
    {.name = "two_writers", .readers = {r::level}, .bytes = 6, .writers = 2},
    {.name = "two_writers_spinning", .readers = {r::spinning}, .bytes = 6, .writers = 2, .edge_writer = true},
    {.name = "fin", .readers = {r::blocking}, .fin = true},
    {.name = "fin_spinning", .readers = {r::spinning}, .fin = true},
    {.name = "fin_gathering", .readers = {r::gathering}, .fin = true},
    {.name = "fin_lazy", .readers = {r::lazy}, .fin = true},
    {.name = "writer_killed", .readers = {r::level}, .killed = 0},
    {.name = "writer_killed_spinning", .readers = {r::spinning}, .killed = 0},
    {.name = "writer_killed_gathering", .readers = {r::gathering}, .killed = 0},
    {.name = "writer_killed_lazy", .readers = {r::lazy}, .killed = 0},
    {.name = "reader_killed", .readers = {r::spinning}, .bytes = 9, .killed = 10},
    {.name = "worker_writes_level", .readers = {r::level}, .killed = 0, .daemon = plan::worker::writes},
    {.name = "worker_writes_edge", .readers = {r::edge}, .bytes = 6, .killed = 0, .daemon = plan::worker::writes},
    {.name = "worker_writes_lazy", .readers = {r::lazy}, .bytes = 9, .killed = 0, .daemon = plan::worker::writes},
    {.name = "worker_writes_spinning", .readers = {r::spinning}, .killed = 0, .daemon = plan::worker::writes},
    {.name = "worker_writes_loop", .readers = {r::loop_edge}, .killed = 0, .daemon = plan::worker::writes},
    {.name = "worker_writes_two", .readers = {r::level, r::blocking}, .killed = 0, .daemon = plan::worker::writes},
    {.name = "worker_writes_often",
     .readers = {r::level},
     .bytes = 6,
     .killed = 0,
     .daemon = plan::worker::writes,
     .deaths = 6,
     .refused_at = 5},
    {.name = "worker_reads", .bytes = 6, .killed = 10, .daemon = plan::worker::reads},
    {.name = "worker_reads_full", .bytes = 9, .killed = 10, .daemon = plan::worker::reads},
    {.name = "worker_reads_full_edge",
     .bytes = 9,
     .edge_writer = true,
     .killed = 10,
     .unwritable_at = 3,
     .daemon = plan::worker::reads},
    {.name = "worker_reads_two", .bytes = 6, .writers = 2, .killed = 10, .daemon = plan::worker::reads, .deaths = 4},
    {.name = "relative_writer_killed", .readers = {r::level}, .bytes = 6, .writers = 2, .relatives = true, .killed = 0},
    {.name = "relative_reader_killed", .readers = {r::level, r::edge}, .bytes = 6, .relatives = true, .killed = 10},
};

class explored : public testing::TestWithParam<plan> {};

// Every order with at most so many preemptions, until the runs are used up.
TEST_P(explored, in_every_order) {
    plan p = GetParam();
    const uint64_t runs_max = number("VMSGR_EXPLORE_ORDERS", 100'000);
    if (p.bytes > 6) {
        p.bytes = 5;
        p.whole_writes = true;
    }
    for (unsigned preemptions : {1u, 2u}) {
        outcome o = exhaust(p, preemptions, runs_max);
        ASSERT_EQ(o.error, "");
        RecordProperty("preemptions_" + std::to_string(preemptions),
                       std::to_string(o.runs) + (o.complete ? ", all" : ", not all"));
        std::printf("%u preemptions: %llu orders, %s\n", preemptions, (unsigned long long)o.runs,
                    o.complete ? "all" : "not all");
    }
}

TEST_P(explored, at_random) {
    plan p = GetParam();
    p.bytes *= 4;
    uint64_t seed = number("VMSGR_EXPLORE_SEED", 0);
    uint64_t runs = seed != 0 ? 1 : number("VMSGR_EXPLORE_RUNS", 5000);
    if (seed == 0) {
        seed = std::random_device{}();
    }
    EXPECT_EQ(at_random(p, runs, seed).error, "");
}

INSTANTIATE_TEST_SUITE_P(plans, explored, testing::ValuesIn(plans), [](const auto& i) { return i.param.name; });

// --- mistakes that must be found ---

struct mistake {
    fault what;
    plan where;
};

const mistake mistakes[] = {
    {fault::no_producer_fence, {.name = "no_producer_fence", .readers = {r::level}}},
    {fault::no_consumer_fence, {.name = "no_consumer_fence", .readers = {r::level}, .bytes = 9}},
    {fault::no_announcement, {.name = "no_announcement", .readers = {r::level}}},
    {fault::no_second_look, {.name = "no_second_look", .readers = {r::level}}},
    {fault::take_everything, {.name = "take_everything", .readers = {r::level}}},
    {fault::take_before_announcing, {.name = "take_before_announcing", .readers = {r::level}}},
    {fault::count_after_sending, {.name = "count_after_sending", .readers = {r::blocking}}},
    {fault::no_top_up, {.name = "no_top_up", .readers = {r::level}, .bytes = 9}},
    {fault::no_relief, {.name = "no_relief", .readers = {r::level}, .bytes = 9}},
    {fault::token_lost, {.name = "token_lost", .readers = {r::level}}},
    {fault::token_lost, {.name = "token_lost_edge", .readers = {r::edge}}},
    {fault::mark_means_awake, {.name = "mark_means_awake", .readers = {r::spinning}}},
    {fault::mark_cleared, {.name = "mark_cleared", .readers = {r::spinning}}},
    {fault::spin_then_sleep, {.name = "spin_then_sleep", .readers = {r::spinning}}},
    {fault::spin_and_read_less, {.name = "spin_and_read_less", .readers = {r::spinning}}},
    {fault::no_send_recovery,
     {.name = "no_send_recovery", .readers = {r::level}, .bytes = 6, .writers = 2, .relatives = true, .killed = 0}},
    {fault::sleeps_unsettled, {.name = "sleeps_unsettled", .readers = {r::loop_edge}}},
    {fault::no_look_at_what_was_shown, {.name = "no_look_at_what_was_shown", .readers = {r::loop_edge}}},
    {fault::takes_over_without_token,
     {.name = "takes_over_without_token", .readers = {r::level}, .killed = 0, .daemon = plan::worker::writes}},
    {fault::takes_over_with_token_for_data,
     {.name = "takes_over_with_token_for_data", .readers = {r::level}, .killed = 0, .daemon = plan::worker::writes}},
    {fault::takes_over_trusting_counts,
     {.name = "takes_over_trusting_counts", .readers = {r::level}, .killed = 0, .daemon = plan::worker::writes}},
    {fault::takes_over_the_old_index,
     {.name = "takes_over_the_old_head", .readers = {r::level}, .killed = 0, .daemon = plan::worker::writes}},
    {fault::takes_over_the_old_index, {.name = "takes_over_the_old_tail", .killed = 10, .daemon = plan::worker::reads}},
    {fault::takes_over_trusting_counts,
     {.name = "takes_over_trusting_counts_and_reads",
      .bytes = 9,
      .edge_writer = true,
      .killed = 10,
      .unwritable_at = 3,
      .daemon = plan::worker::reads,
      .deaths = 6}},
    {fault::takes_over_without_relief,
     {.name = "takes_over_without_relief", .bytes = 9, .killed = 10, .daemon = plan::worker::reads}},
    {fault::takes_over_and_sleeps,
     {.name = "takes_over_and_sleeps", .bytes = 9, .killed = 10, .daemon = plan::worker::reads}},
    {fault::forgets_refused_token,
     {.name = "forgets_refused_token",
      .readers = {r::level},
      .bytes = 6,
      .killed = 0,
      .daemon = plan::worker::writes,
      .deaths = 6,
      .refused_at = 5}},
    {fault::no_decision, {.name = "no_decision", .readers = {r::level}, .exact = true}},
    {fault::none, {.name = "lazy_leaves_two", .readers = {r::lazy}, .lazy_left = 2}},
    {fault::none, {.name = "three_tokens_with_lazy", .readers = {r::lazy}, .unwritable_at = 3}},
    {fault::none, {.name = "two_tokens", .readers = {r::level}, .unwritable_at = 2}},
    {fault::none,
     {.name = "spinner_killed_beside_a_relative", .readers = {r::spinning, r::level}, .relatives = true, .killed = 10}},
};

void PrintTo(const mistake& m, std::ostream* out) { *out << m.where.name; }

class mistaken : public testing::TestWithParam<mistake> {};

TEST_P(mistaken, is_found) {
    const mistake& m = GetParam();
    plan p = m.where;
    p.bytes *= 4;
    // Somebody who spins for ever shows where nobody interrupts: in the exhaustive runs.
    const bool spins = m.what == fault::count_after_sending || m.what == fault::no_top_up;
    outcome o = spins ? exhaust(p, 1, 1'000'000, m.what) : at_random(p, 1'000'000, std::random_device{}(), m.what);
    EXPECT_NE(o.error, "") << o.runs << " runs found nothing";
    std::printf("found in run %llu: %s\n", (unsigned long long)o.runs, o.error.substr(0, o.error.find('\n')).c_str());
}

INSTANTIATE_TEST_SUITE_P(mistakes, mistaken, testing::ValuesIn(mistakes),
                         [](const auto& i) { return i.param.where.name; });

}  // namespace
}  // namespace vmsgr::shm::explore
