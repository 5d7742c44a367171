// The numbers that docs/PROTOCOL.md gives to readers of other languages. A change here changes that page, and the
// layout's version.
#include "shm/layout.hh"

#include <gtest/gtest.h>

namespace vmsgr::shm {
namespace {

TEST(layout, conduit_is_as_the_protocol_page_says) {
    EXPECT_EQ(layout_version, 3);
    EXPECT_EQ(conduit_magic, 0x746964756e6f6356u);
    EXPECT_EQ(sizeof(base::address), 24u);
    EXPECT_EQ(offsetof(base::address, scope_id), 4u);
    EXPECT_EQ(offsetof(base::address, ip), 8u);
    EXPECT_EQ(offsetof(conduit_header, version), 8u);
    EXPECT_EQ(offsetof(conduit_header, header_bytes), 10u);
    EXPECT_EQ(offsetof(conduit_header, ring_bytes), 12u);
    EXPECT_EQ(offsetof(conduit_header, key), 16u);
    EXPECT_EQ(offsetof(conduit_header, status), 64u);
    EXPECT_EQ(offsetof(conduit_header, error), 68u);
    EXPECT_EQ(offsetof(conduit_header, local), 72u);
    EXPECT_EQ(offsetof(conduit_header, peer), 96u);
    EXPECT_EQ(offsetof(conduit_header, end), 128u);
    EXPECT_EQ(offsetof(conduit_header, ring), 256u);
    EXPECT_EQ(sizeof(conduit_header), 640u);
    EXPECT_EQ(conduit_header_bytes, 4096);
    EXPECT_EQ(conduit_bytes(65536), 4096u + 2 * 65536);
}

TEST(layout, ring_words_are_as_the_protocol_page_says) {
    EXPECT_EQ(sizeof(ring_words), 192u);
    EXPECT_EQ(offsetof(ring_words, head), 0u);
    EXPECT_EQ(offsetof(ring_words, tokens_sent), 8u);
    EXPECT_EQ(offsetof(ring_words, flags), 12u);
    EXPECT_EQ(offsetof(ring_words, error), 16u);
    EXPECT_EQ(offsetof(ring_words, tail), 64u);
    EXPECT_EQ(offsetof(ring_words, consumer_waits), 128u);
    EXPECT_EQ(ring_fin | ring_reset | ring_more | ring_inexact, 15);
}

TEST(layout, session_is_as_the_protocol_page_says) {
    EXPECT_EQ(session_magic, 0x6e6f697373657356u);
    EXPECT_EQ(offsetof(session_segment, version), 8u);
    EXPECT_EQ(offsetof(session_segment, bytes), 12u);
    EXPECT_EQ(offsetof(session_segment, session_id), 16u);
    EXPECT_EQ(offsetof(session_segment, connects_routed), 64u);
    EXPECT_EQ(offsetof(session_segment, listen), 128u);
    EXPECT_EQ(offsetof(session_segment, connect), 6272u);
    EXPECT_EQ(offsetof(session_segment, connected), 30848u);
    EXPECT_EQ(sizeof(session_segment), 1603712u);
    EXPECT_EQ(offsetof(connect_job, key), 8u);
    EXPECT_EQ(offsetof(connect_job, peer), 16u);
    EXPECT_EQ(offsetof(connect_job, ring_bytes), 72u);
    EXPECT_EQ(offsetof(connected_entry, local), 16u);
    EXPECT_EQ(offsetof(connected_entry, peer), 40u);
    EXPECT_EQ(offsetof(connected_entry, role), 64u);
    EXPECT_EQ(offsetof(connected_entry, shard), 68u);
}

}  // namespace
}  // namespace vmsgr::shm
