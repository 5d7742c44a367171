// Channels' use of the ring in every order that x86 allows, in very many at random, and with mistakes that must be
// found.
#include <gtest/gtest.h>

#include <cstdlib>

#include "shm/tests/explore_channel.hh"

namespace vmsgr::shm::explore {
namespace {

std::vector<std::unique_ptr<char[]>> stacks;

std::string run_once(const channel_plan& p, chooser& c, unsigned preemptions, fault f) {
    world w(c, f, preemptions);
    channel_scene s(p, w);
    w.run(stacks);
    if (w.error.empty()) {
        s.check_end();
    }
    return w.error.empty() ? "" : w.report();
}

std::string in_order(const channel_plan& p, unsigned preemptions, uint64_t runs_max, fault f = fault::none) {
    chooser c;
    std::string error;
    uint64_t runs = 0;
    do {
        error = run_once(p, c, preemptions, f);
    } while (error.empty() && ++runs < runs_max && c.next());
    return error;
}

std::string at_random(const channel_plan& p, uint64_t runs, uint64_t seed, fault f = fault::none) {
    for (; runs != 0; --runs, ++seed) {
        chooser c;
        c.seed(seed);
        std::string error = run_once(p, c, ~0u, f);
        if (!error.empty()) {
            return "seed " + std::to_string(seed) + ": " + error;
        }
    }
    return "";
}

uint64_t number(const char* name, uint64_t otherwise) {
    const char* v = std::getenv(name);
    return v != nullptr ? std::strtoull(v, nullptr, 10) : otherwise;
}

const channel_plan plans[] = {
    {.name = "few", .frames = {1, 2, 3}},
    {.name = "few_spinning", .frames = {1, 2, 3}, .spins = true},
    {.name = "full", .frames = {3, 3, 3, 3, 1, 2, 3}},
    {.name = "full_spinning", .frames = {3, 3, 3, 3, 1, 2, 3}, .spins = true},
    {.name = "small", .frames = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, .spins = true},
    {.name = "parts", .frames = {3, 2, 3, 3, 3}, .parts = true},
    {.name = "parts_spinning", .frames = {3, 2, 3, 3, 3}, .spins = true, .parts = true},
    {.name = "writer_killed", .frames = {3, 3, 3}, .spins = true, .killed = 0},
    {.name = "reader_killed", .frames = {3, 3, 3, 3}, .spins = true, .killed = 10},
};

class channel_explored : public testing::TestWithParam<channel_plan> {};

TEST_P(channel_explored, in_every_order) {
    for (unsigned preemptions : {1u, 2u}) {
        ASSERT_EQ(in_order(GetParam(), preemptions, number("VMSGR_EXPLORE_ORDERS", 100'000)), "");
    }
}

TEST_P(channel_explored, at_random) {
    channel_plan p = GetParam();
    auto once = p.frames;
    for (int i = 0; i < 3; ++i) {
        p.frames.insert(p.frames.end(), once.begin(), once.end());
    }
    uint64_t seed = number("VMSGR_EXPLORE_SEED", 0);
    const uint64_t runs = seed != 0 ? 1 : number("VMSGR_EXPLORE_RUNS", 5000);
    EXPECT_EQ(at_random(p, runs, seed != 0 ? seed : std::random_device{}()), "");
}

INSTANTIATE_TEST_SUITE_P(plans, channel_explored, testing::ValuesIn(plans), [](const auto& i) { return i.param.name; });

struct mistake {
    fault what;
    channel_plan where;
    bool spins_for_ever = false;  // shows where nobody interrupts: in order
};
void PrintTo(const mistake& m, std::ostream* out) { *out << m.where.name; }

const std::vector<unsigned> many = {3, 3, 3, 3, 1, 2, 3, 3, 3, 3, 3, 1, 2, 3};
// A missing fence before relieve(), or no relieve() at all, only delays a writer here: this reader settles in the end.
const mistake mistakes[] = {
    {fault::no_producer_fence, {.name = "no_producer_fence", .frames = many}},
    {fault::no_announcement, {.name = "no_announcement", .frames = many, .spins = true}},
    {fault::no_second_look, {.name = "no_second_look", .frames = many}},
    {fault::take_everything, {.name = "take_everything", .frames = many}},
    {fault::no_top_up, {.name = "no_top_up", .frames = many}, true},
    {fault::token_lost, {.name = "token_lost", .frames = many}},
};

class channel_mistaken : public testing::TestWithParam<mistake> {};

TEST_P(channel_mistaken, is_found) {
    const mistake& m = GetParam();
    std::string error = m.spins_for_ever ? in_order(m.where, 1, 1'000'000, m.what)
                                         : at_random(m.where, 1'000'000, std::random_device{}(), m.what);
    EXPECT_NE(error, "");
}

INSTANTIATE_TEST_SUITE_P(mistakes, channel_mistaken, testing::ValuesIn(mistakes),
                         [](const auto& i) { return i.param.where.name; });

}  // namespace
}  // namespace vmsgr::shm::explore
