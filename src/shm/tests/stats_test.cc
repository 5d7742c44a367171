#include "shm/stats.hh"

#include "shm/segment.hh"

#include <gtest/gtest.h>

#include <thread>

namespace vmsgr::shm {
namespace {

using many = std::array<uint64_t, 37>;

TEST(stats, a_published_value_is_read_whole_or_not_at_all) {
    published<many> place;
    EXPECT_FALSE(place.read());
    std::atomic<bool> enough{false};
    uint64_t written = 0;
    std::thread writer([&] {
        while (!enough) {
            many m;
            m.fill(++written);
            place.write(m);
        }
    });
    constexpr int reads = 20000;
    uint64_t last = 0;
    for (int seen = 0; seen < reads;) {
        if (const auto m = place.read()) {
            EXPECT_EQ(std::ranges::count(*m, m->front()), ptrdiff_t(m->size()));
            EXPECT_GE(m->front(), last);
            last = m->front();
            ++seen;
        }
    }
    enough = true;
    writer.join();
    EXPECT_EQ(place.read()->back(), written);
}

TEST(stats, odd_sizes_are_whole_too) {
    published<std::array<char, 13>> place;
    place.write({"twelve bytes"});
    EXPECT_STREQ(place.read()->data(), "twelve bytes");
}

TEST(stats, a_histogram_counts_up_to_its_bounds) {
    base::histogram h;
    h.add(0);
    h.add(base::histogram_bounds_us.front());
    h.add(base::histogram_bounds_us.front() + 1);
    h.add(base::histogram_bounds_us.back());
    h.add(base::histogram_bounds_us.back() + 1);
    const auto read = h.read();
    EXPECT_EQ(read.buckets[0], 2u);
    EXPECT_EQ(read.buckets[1], 1u);
    EXPECT_EQ(read.buckets[base::histogram_bounds_us.size() - 1], 1u);
    EXPECT_EQ(read.buckets.back(), 1u);
    EXPECT_EQ(read.sum_us, 2 * base::histogram_bounds_us.front() + 2 * base::histogram_bounds_us.back() + 2);
}

TEST(stats, a_name_that_is_too_long_is_cut_and_ends) {
    const auto name = to_stats_name(std::string(200, 'x'));
    EXPECT_EQ(std::string_view(name.data()).size(), stats_name_bytes - 1);
}

TEST(stats, the_shards_follow_the_page) {
    auto page = create_published("stats-test", stats_page::bytes(3));
    ASSERT_TRUE(page) << page.error().text;
    auto& p = *reinterpret_cast<stats_page*>(page->memory.data());
    p.of(2).connection.back().bytes_in += 7;
    EXPECT_EQ(reinterpret_cast<std::byte*>(&p.of(2) + 1), page->memory.data() + page->memory.size());
    auto seen = map_published(page->fd.get(), page->memory.size());
    ASSERT_TRUE(seen) << seen.error().text;
    EXPECT_EQ(reinterpret_cast<const stats_page*>(seen->data())->of(2).connection.back().bytes_in, 7u);
}

}  // namespace
}  // namespace vmsgr::shm
