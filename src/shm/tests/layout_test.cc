// The numbers that docs/PROTOCOL.md gives to readers of other languages. A change here changes that page, and the
// layout's version.
#include "shm/layout.hh"

#include <gtest/gtest.h>

namespace vmsgr::shm {
namespace {

TEST(layout, arena_is_as_the_protocol_page_says) {
    EXPECT_EQ(layout_version, 6);
    EXPECT_EQ(arena_magic, 0x616e6572615600u);
    EXPECT_EQ(sizeof(base::address), 24u);
    EXPECT_EQ(offsetof(base::address, scope_id), 4u);
    EXPECT_EQ(offsetof(base::address, ip), 8u);
    EXPECT_EQ(offsetof(arena_header, version), 8u);
    EXPECT_EQ(offsetof(arena_header, slots), 12u);
    EXPECT_EQ(offsetof(arena_header, ring_bytes), 16u);
    EXPECT_EQ(offsetof(arena_header, bytes), 24u);
    EXPECT_EQ(offsetof(arena_header, closed), 64u);
    EXPECT_EQ(sizeof(conduit_header), 576u);
    EXPECT_EQ(offsetof(conduit_header, status), 0u);
    EXPECT_EQ(offsetof(conduit_header, error), 4u);
    EXPECT_EQ(offsetof(conduit_header, local), 8u);
    EXPECT_EQ(offsetof(conduit_header, peer), 32u);
    EXPECT_EQ(offsetof(conduit_header, end), 64u);
    EXPECT_EQ(offsetof(conduit_header, ring), 192u);
    EXPECT_EQ(slot_header_at(3), 128u + 3 * 576);
    EXPECT_EQ(arena_rings_at(64), 40960u);
    EXPECT_EQ(slot_rings_at(64, 65536, 2), 40960u + 4 * 65536);
    EXPECT_EQ(arena_bytes(1, 4096), 4096u + 2 * 4096);
}

TEST(layout, ring_words_are_as_the_protocol_page_says) {
    EXPECT_EQ(sizeof(ring_words), 192u);
    EXPECT_EQ(offsetof(ring_words, head), 0u);
    EXPECT_EQ(offsetof(ring_words, tokens_sent), 8u);
    EXPECT_EQ(offsetof(ring_words, flags), 12u);
    EXPECT_EQ(offsetof(ring_words, error), 16u);
    EXPECT_EQ(offsetof(ring_words, base), 24u);
    EXPECT_EQ(offsetof(ring_words, urgent), 32u);
    EXPECT_EQ(offsetof(ring_words, tail), 64u);
    EXPECT_EQ(offsetof(ring_words, window), 72u);
    EXPECT_EQ(offsetof(ring_words, consumer_waits), 128u);
    EXPECT_EQ(ring_fin | ring_reset | ring_more | ring_inexact | ring_urgent, 31);
}

TEST(layout, session_is_as_the_protocol_page_says) {
    EXPECT_EQ(session_magic, 0x6e6f697373657356u);
    EXPECT_EQ(offsetof(session_segment, version), 8u);
    EXPECT_EQ(offsetof(session_segment, registry), 10u);
    EXPECT_EQ(offsetof(session_segment, bytes), 12u);
    EXPECT_EQ(offsetof(session_segment, session_id), 16u);
    EXPECT_EQ(offsetof(session_segment, connects_routed), 64u);
    EXPECT_EQ(offsetof(session_segment, connect), 128u);
    EXPECT_EQ(offsetof(session_segment, connected), 24704u);
    EXPECT_EQ(offsetof(session_segment, locals), 1597568u);
    EXPECT_EQ(sizeof(session_segment), 3694720u);
    EXPECT_EQ(offsetof(connect_job, id), 8u);
    EXPECT_EQ(offsetof(connect_job, peer), 16u);
    EXPECT_EQ(offsetof(connect_job, slot), 72u);
    EXPECT_EQ(offsetof(connect_job, flags), 76u);
    EXPECT_EQ(offsetof(connect_job, linger), 80u);
    EXPECT_EQ(offsetof(local_entry, local), 8u);
    EXPECT_EQ(offsetof(local_entry, role), 56u);
    EXPECT_EQ(offsetof(local_entry, route), 72u);
    EXPECT_EQ(offsetof(local_entry, bytes_in), 104u);
    EXPECT_EQ(offsetof(connected_entry, local), 16u);
    EXPECT_EQ(offsetof(connected_entry, peer), 40u);
    EXPECT_EQ(offsetof(connected_entry, role), 64u);
    EXPECT_EQ(offsetof(connected_entry, shard), 68u);
}

TEST(layout, registry_is_as_the_protocol_page_says) {
    EXPECT_EQ(registry_magic, 0x7473696765725673u);
    EXPECT_EQ(offsetof(listening_registry, used), 16u);
    EXPECT_EQ(offsetof(listening_registry, entry), 64u);
    EXPECT_EQ(sizeof(listening_registry), 64u + 4096 * 128);
    EXPECT_EQ(offsetof(listening_entry, netns), 8u);
    EXPECT_EQ(offsetof(listening_entry, address), 16u);
    EXPECT_EQ(offsetof(listening_entry, flags), 40u);
    EXPECT_EQ(offsetof(listening_entry, door), 48u);
}

}  // namespace
}  // namespace vmsgr::shm
