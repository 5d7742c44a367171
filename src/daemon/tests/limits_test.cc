// Limits that do not fit each other or the machine: refused or lowered before anything starts, in words that say what
// to change.
#include "daemon/limits.hh"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

using namespace vmsgr;
using daemon::fit_limits;
using daemon::machine;
using daemon::memory_limit;

namespace {

constexpr uint64_t mib = 1 << 20, gib = 1 << 30;

machine large() {
    machine m;
    m.descriptors = 1 << 20;
    m.maps = 65530;
    m.memory = 256 * gib;
    m.aio = 65536;
    m.processors = 8;
    return m;
}
conf::daemon_config two_shards() {
    conf::daemon_config c;
    c.shards = 2;
    c.memory_bytes = 128 * mib;
    return c;
}

std::string refusal(const conf::daemon_config& c, const machine& m) {
    auto r = fit_limits(c, m);
    return r ? "taken" : r.error().text;
}
bool says(const std::string& text, std::initializer_list<const char*> words) {
    return std::ranges::all_of(words, [&](const char* w) { return text.find(w) != text.npos; });
}

TEST(limits, defaults_fit_a_large_machine) {
    auto f = fit_limits(two_shards(), large());
    ASSERT_TRUE(f) << f.error().text;
    EXPECT_TRUE(f->lowered.empty()) << f->lowered.front();
    EXPECT_EQ(f->all.connections, 65536u);
    EXPECT_EQ(f->each_user.connections, 32768u);
    EXPECT_EQ(f->each_user.sessions, 2048u);
    EXPECT_EQ(f->all.memory, 256 * gib - 128 * mib);
    EXPECT_EQ(f->each_user.memory, f->all.memory / 2);
    // With the connections' hellos, less than the kernel allows.
    EXPECT_EQ(f->all.in_flight, large().descriptors / 4);
    EXPECT_LE(f->all.in_flight + f->all.connections + f->all.passing, large().descriptors);
    EXPECT_EQ(f->each_user.in_flight, f->all.in_flight / 2);
    EXPECT_LT(f->each_user.passing, f->all.passing);
}

TEST(limits, what_was_said_for_a_user_counts) {
    auto c = two_shards();
    c.limits.per_user = {1, 2, 3, 4, 8 * mib};
    auto f = fit_limits(c, large());
    ASSERT_TRUE(f);
    EXPECT_EQ(f->each_user.sessions, 1u);
    EXPECT_EQ(f->each_user.connections, 2u);
    EXPECT_EQ(f->each_user.listeners, 3u);
    EXPECT_EQ(f->each_user.fds, 4u);
    EXPECT_EQ(f->each_user.memory, 8 * mib);
}

TEST(limits, few_descriptors_lower_what_needs_them) {
    auto m = large();
    m.descriptors = 4096;
    auto f = fit_limits(two_shards(), m);
    ASSERT_TRUE(f) << f.error().text;
    EXPECT_LT(f->all.fds + f->closing, 4096u - 253u * 3);
    EXPECT_LE(f->all.connections * conn::fds_per_connection, f->all.fds);
    EXPECT_LE(f->all.sessions, f->all.fds);
    ASSERT_FALSE(f->lowered.empty());
    EXPECT_TRUE(says(f->lowered.front(), {"limits.sessions", "4096 descriptors", "ulimit -n"})) << f->lowered.front();
    m.descriptors = 100;
    EXPECT_TRUE(says(refusal(two_shards(), m), {"only 100 descriptors", "LimitNOFILE"})) << refusal(two_shards(), m);
}

TEST(limits, each_small_limit_on_descriptors_leaves_some_or_is_refused) {
    for (uint64_t n = 1; n < 3000; ++n) {
        auto m = large();
        m.descriptors = n;
        if (auto f = fit_limits(two_shards(), m)) {
            EXPECT_GE(f->all.fds, 64u) << n;
            EXPECT_LT(f->all.fds, n);
            EXPECT_GT(f->all.connections, 0u) << n;
            EXPECT_GT(f->each_user.sessions, 0u) << n;
        }
    }
}

TEST(limits, more_memory_than_there_is) {
    auto m = large();
    m.memory = 128 * mib;
    m.contained = true;
    EXPECT_TRUE(says(refusal(two_shards(), m), {"memory: 128M", "this container has 128M", "lower memory"}))
        << refusal(two_shards(), m);
    m.memory = gib;
    auto c = two_shards();
    c.limits.memory = 4 * gib;
    auto f = fit_limits(c, m);
    ASSERT_TRUE(f);
    EXPECT_EQ(f->all.memory, gib - 128 * mib);
    ASSERT_FALSE(f->lowered.empty());
    EXPECT_TRUE(says(f->lowered.front(), {"limits.memory", "this container has 1G"})) << f->lowered.front();
    c.limits.ring_bytes = 64 << 20;
    c.memory_bytes = 64 * mib;
    m.memory = 100 * mib;
    EXPECT_TRUE(says(refusal(c, m), {"limits.ring_bytes", "lower it"})) << refusal(c, m);
}

TEST(limits, mappings_asynchronous_places_and_processors) {
    auto m = large();
    m.maps = 3000;
    EXPECT_TRUE(says(refusal(two_shards(), m), {"vm.max_map_count"})) << refusal(two_shards(), m);
    m = large();
    m.aio = 100;
    EXPECT_TRUE(says(refusal(two_shards(), m), {"fs.aio-max-nr", "100 are left"})) << refusal(two_shards(), m);
    m = large();
    m.processors = 1;
    EXPECT_TRUE(says(refusal(two_shards(), m), {"shards: 2", "only 1 processors"})) << refusal(two_shards(), m);
}

class cgroups : public testing::Test {
protected:
    std::filesystem::path _root = std::filesystem::temp_directory_path() /
                                  ("vmsgr-limits-" + std::to_string(::getpid()));
    ~cgroups() override { std::filesystem::remove_all(_root); }
    void put(const std::string& path, const std::string& text) {
        std::filesystem::create_directories((_root / path).parent_path());
        std::ofstream(_root / path) << text << '\n';
    }
};

TEST_F(cgroups, the_smallest_limit_above_counts) {
    put("memory.max", "max");
    put("a/memory.max", "1000");
    put("a/b/memory.max", "2000");
    put("a/b/c/memory.max", "max");
    EXPECT_EQ(memory_limit("0::/a/b/c\n", _root.string()), 1000u);
    EXPECT_EQ(memory_limit("0::/\n", _root.string()), UINT64_MAX);
    EXPECT_EQ(memory_limit("0::/none/such\n", _root.string()), UINT64_MAX);
    put("memory.max", "500");  // a container's own, seen as the root
    EXPECT_EQ(memory_limit("0::/\n", _root.string()), 500u);
}

TEST_F(cgroups, version_1) {
    put("memory/x/memory.limit_in_bytes", "4096");
    EXPECT_EQ(memory_limit("5:cpu:/x\n4:memory:/x\n", _root.string()), 4096u);
    EXPECT_EQ(memory_limit("4:hugetlb,memory:/x/y\n1:name=systemd:/\n", _root.string()), 4096u);
    EXPECT_EQ(memory_limit("", _root.string()), UINT64_MAX);
    EXPECT_EQ(memory_limit("no colons\n::\n", _root.string()), UINT64_MAX);
}

TEST(machine, is_read) {
    auto m = machine::read();
    ASSERT_TRUE(m);
    EXPECT_GT(m->descriptors, 0u);
    EXPECT_GT(m->memory, 64 * mib);
    EXPECT_GT(m->maps, 1000u);
    EXPECT_GT(m->processors, 0u);
}

}  // namespace
