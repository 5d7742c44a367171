#include "shm/arena.hh"

#include <errno.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <set>

namespace vmsgr::shm {
namespace {

constexpr uint32_t over = end_left | end_done;

TEST(arena, opens_as_it_was_made) {
    auto made = create_arena(4, 65536);
    ASSERT_TRUE(made);
    auto opened = open_arena(made->fd.get(), ring_bytes_max);
    ASSERT_TRUE(opened) << opened.error().text;
    EXPECT_EQ(opened->slots(), 4u);
    EXPECT_EQ(opened->ring_bytes(), 65536u);
    for (uint32_t slot = 0; slot < 4; ++slot) {
        auto ours = made->memory.at(slot), theirs = opened->at(slot);
        EXPECT_EQ(theirs.ring_data(1) - theirs.ring_data(0), 65536);
        *ours.ring_data(1) = std::byte(slot + 1);
        ours.header().error.store(int(slot) + 7);
    }
    for (uint32_t slot = 0; slot < 4; ++slot) {
        EXPECT_EQ(*opened->at(slot).ring_data(1), std::byte(slot + 1));
        EXPECT_EQ(opened->at(slot).header().error.load(), int(slot) + 7);
    }
}

TEST(arena, of_another_layout_is_refused) {
    auto spoil = [](auto&& how) {
        auto made = create_arena(2, 4096);
        how(made->memory.header());
        auto opened = open_arena(made->fd.get(), ring_bytes_max);
        return opened ? 0 : opened.error().errnum;
    };
    EXPECT_EQ(spoil([](arena_header&) {}), 0);
    EXPECT_EQ(spoil([](arena_header& h) { h.magic ^= 1; }), EPROTO);
    EXPECT_EQ(spoil([](arena_header& h) { h.version += 1; }), EPROTO);
    EXPECT_EQ(spoil([](arena_header& h) { h.slots = 0; }), EINVAL);
    EXPECT_EQ(spoil([](arena_header& h) { h.slots = 3; }), EINVAL);
    EXPECT_EQ(spoil([](arena_header& h) { h.slots = arena_slots_max + 1; }), EINVAL);
    EXPECT_EQ(spoil([](arena_header& h) { h.slots = 0xffffffff; }), EINVAL);
    EXPECT_EQ(spoil([](arena_header& h) { h.ring_bytes = 8192; }), EINVAL);
    EXPECT_EQ(spoil([](arena_header& h) { h.ring_bytes = 4095; }), EINVAL);
    EXPECT_EQ(spoil([](arena_header& h) { h.bytes += page; }), EINVAL);
}

TEST(arena, ring_limit_is_ours) {
    auto made = create_arena(1, 65536);
    EXPECT_FALSE(open_arena(made->fd.get(), 32768));
    EXPECT_TRUE(open_arena(made->fd.get(), 65536));
}

TEST(arena, gives_each_slot_once) {
    made_arena a(std::move(create_arena(arena_slots_max, 4096)->memory), 0);
    std::set<uint32_t> seen;
    while (auto slot = a.take()) {
        EXPECT_TRUE(seen.insert(*slot).second);
    }
    EXPECT_EQ(seen.size(), arena_slots_max);
    EXPECT_FALSE(a.unused());
}

TEST(arena, slot_that_both_ends_have_left_is_given_again_as_new) {
    made_arena a(std::move(create_arena(1, 4096)->memory), 0);
    auto& h = a.memory().at(*a.take()).header();
    h.ring[0].head.store(99);
    h.ring[1].flags.store(ring_fin);
    h.ring[0].consumer_waits.store(0);
    h.status.store(conduit_failed);
    EXPECT_FALSE(a.take());
    h.end[0].flags.store(over);
    a.give_back(0);
    EXPECT_TRUE(a.unused());
    EXPECT_FALSE(a.take()) << "the other end uses it still";
    h.end[1].flags.store(end_left);
    EXPECT_FALSE(a.take()) << "it has closed, but a call may be in it";
    h.end[1].flags.store(over);
    ASSERT_TRUE(a.take());
    EXPECT_EQ(h.ring[0].head.load(), 0u);
    EXPECT_EQ(h.ring[1].flags.load(), 0u);
    EXPECT_EQ(h.ring[0].consumer_waits.load(), announcement::asleep().word());
    EXPECT_EQ(h.end[1].flags.load(), 0u);
    EXPECT_EQ(h.status.load(), uint32_t(conduit_connecting));
}

TEST(arena, slot_that_a_third_process_had_is_not_given_again) {
    for (unsigned who : {0u, 1u}) {
        made_arena a(std::move(create_arena(1, 4096)->memory), 0);
        auto& h = a.memory().at(*a.take()).header();
        h.end[0].flags.store(over);
        h.end[1].flags.store(over);
        h.end[who].flags.fetch_or(end_shared);
        a.give_back(0);
        EXPECT_FALSE(a.take());
    }
}

TEST(arena, closed_by_either_side_begins_nothing) {
    auto made = create_arena(2, 4096);
    auto other = open_arena(made->fd.get(), ring_bytes_max);
    made_arena a(std::move(made->memory), 0);
    ASSERT_TRUE(a.take());
    other->close();
    EXPECT_TRUE(a.memory().closed());
    EXPECT_FALSE(a.take());
}

TEST(arena, memory_of_a_large_connection_is_given_back) {
    constexpr uint32_t ring = 1u << 20;
    auto made = create_arena(1, ring);
    made_arena a(std::move(made->memory), 0);
    auto resident = [&] {
        struct stat st;
        ::fstat(made->fd.get(), &st);
        return size_t(st.st_blocks) * 512;
    };
    auto c = a.memory().at(*a.take());
    for (int r : {0, 1}) {
        std::fill_n(c.ring_data(r), ring, std::byte{1});
        c.header().ring[r].head.store(ring);
        c.header().end[r].flags.store(over);
    }
    EXPECT_GE(resident(), 2 * size_t(ring));
    a.give_back(0);
    ASSERT_TRUE(a.take());
    EXPECT_LE(resident(), size_t(256) << 10);
}

}  // namespace
}  // namespace vmsgr::shm
