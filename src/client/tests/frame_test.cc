#include "client/channels/frame.hh"

#include <gtest/gtest.h>

#include <cstring>

namespace vmsgr::client {
namespace {

// docs/PROTOCOL.md, section 10.
TEST(frame, layout_is_as_documented) {
    const frame_header h{.bytes = 0x01020304, .kind = frame_kind::data};
    const unsigned char wanted[] = {4, 3, 2, 1, 0x56, 0x4d, 2, 0};
    EXPECT_EQ(memcmp(&h, wanted, sizeof h), 0);
    const hello_body b{.max_message_bytes = 65536};
    const unsigned char hello[24] = {'V', 'M', 'S', 'G', 'R', 'C', 'H', '1', 1, 0, 0, 0, 0, 0, 1, 0};
    EXPECT_EQ(memcmp(&b, hello, sizeof b), 0);
}

TEST(frame, sizes_are_multiples_of_eight) {
    EXPECT_EQ(frame_bytes(0), 8u);
    EXPECT_EQ(frame_bytes(1), 16u);
    EXPECT_EQ(frame_bytes(8), 16u);
    EXPECT_EQ(frame_bytes(9), 24u);
    // With its goodbye the largest message takes half a ring, and no more.
    EXPECT_EQ(frame_bytes(message_bytes_in(4096)) + frame_unit, 2048u);
    EXPECT_GE(message_bytes_in(4096), message_bytes_min);
}

TEST(frame, a_check_says_what_is_wrong) {
    EXPECT_EQ(check_frame({.bytes = 10}, true, 10), frame_fault::none);
    EXPECT_EQ(check_frame({.bytes = 11}, true, 10), frame_fault::too_long);
    EXPECT_EQ(check_frame({.bytes = 10}, false, 10), frame_fault::out_of_place);
    EXPECT_EQ(check_frame({.bytes = 24, .kind = frame_kind::hello}, false, 10), frame_fault::none);
    EXPECT_EQ(check_frame({.bytes = 23, .kind = frame_kind::hello}, false, 10), frame_fault::not_a_channel);
    EXPECT_EQ(check_frame({.bytes = 257, .kind = frame_kind::hello}, false, 10), frame_fault::not_a_channel);
    EXPECT_EQ(check_frame({.bytes = 0, .kind = frame_kind::bye}, true, 10), frame_fault::none);
    EXPECT_EQ(check_hello({.version = 2, .max_message_bytes = 4096}), frame_fault::other_version);
    EXPECT_EQ(check_hello({.max_message_bytes = 4096}), frame_fault::none);
}

}  // namespace
}  // namespace vmsgr::client
