#include "trunk/packet.hh"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

namespace vmsgr::trunk {
namespace {

uint64_t seed_of_this_run() {
    const char* s = std::getenv("VMSGR_SEED");
    return s != nullptr ? strtoull(s, nullptr, 0) : std::random_device()();
}

std::vector<std::byte> sealed(header h, size_t size = 1024) {
    std::vector<std::byte> p(size);
    seal(p, h, crc_cover::packet);
    return p;
}

TEST(packet, crc_is_castagnoli) { EXPECT_EQ(crc32c(std::as_bytes(std::span("123456789", 9))), 0xe3069283u); }

TEST(packet, what_is_sealed_is_read) {
    header h{packet_type::dummy, 1, 2, 3, 4, 5, 6}, out;
    auto p = sealed(h);
    EXPECT_EQ(invalid(p, out, crc_cover::packet), std::nullopt);
    EXPECT_EQ(out.type, h.type);
    EXPECT_EQ(out.session, 1u);
    EXPECT_EQ(out.sequence, 2u);
    EXPECT_EQ(out.ack, 3u);
    EXPECT_EQ(out.stamp, 4u);
    EXPECT_EQ(out.echo, 5u);
    EXPECT_EQ(out.payload_bytes, 6u);
}

TEST(packet, every_wrong_header_has_its_reason) {
    header out;
    auto good = sealed({});
    auto p = good;
    p[0] ^= std::byte(1);
    EXPECT_EQ(invalid(p, out, crc_cover::packet), packet_fault::magic);
    p = good;
    p[4] ^= std::byte(1);
    EXPECT_EQ(invalid(p, out, crc_cover::packet), packet_fault::version);
    EXPECT_EQ(invalid(std::span(good).first(512), out, crc_cover::packet), packet_fault::size);
    EXPECT_EQ(invalid(std::span(good).first(63), out, crc_cover::packet), packet_fault::truncated);
    for (size_t at : {8u, 60u, 64u, 1023u}) {
        p = good;
        p[at] ^= std::byte(0x80);
        EXPECT_EQ(invalid(p, out, crc_cover::packet), packet_fault::crc) << at;
    }
    good.resize(1024);
    seal(good, {}, crc_cover::header);
    for (auto [at, wanted] : {std::pair(8u, true), {60u, true}, {64u, false}, {1023u, false}}) {
        p = good;
        p[at] ^= std::byte(0x80);
        EXPECT_EQ(invalid(p, out, crc_cover::header) == packet_fault::crc, wanted) << at;
        EXPECT_EQ(invalid(p, out, crc_cover::packet), packet_fault::crc) << at;
    }
    header h;
    h.type = packet_type(9);
    EXPECT_EQ(invalid(sealed(h), out, crc_cover::packet), packet_fault::type);
    h = {};
    h.payload_bytes = 1024 - 63;
    EXPECT_EQ(invalid(sealed(h), out, crc_cover::packet), packet_fault::length);
}

TEST(packet, frames_are_read_one_by_one) {
    std::vector<std::byte> run(2 * frame_header_bytes + 5);
    put_frame_header(run.data(), 7, frame_kind::data, 5);
    put_frame_header(run.data() + frame_header_bytes + 5, 8, frame_kind::reset, 0, 104);
    std::span<const std::byte> left = run;
    frame f;
    EXPECT_EQ(next_frame(left, f), std::nullopt);
    EXPECT_EQ(f.channel, 7u);
    EXPECT_EQ(f.body.size(), 5u);
    EXPECT_EQ(next_frame(left, f), std::nullopt);
    EXPECT_EQ(f.kind, frame_kind::reset);
    EXPECT_EQ(f.value, 104u);
    EXPECT_TRUE(left.empty());
}

TEST(packet, frames_that_lie_about_their_length_are_refused) {
    std::vector<std::byte> run(frame_header_bytes + 4);
    frame f;
    auto judge = [&](frame_kind kind, uint16_t length, size_t bytes) {
        put_frame_header(run.data(), 1, kind, length);
        std::span<const std::byte> left = std::span(run).first(bytes);
        return next_frame(left, f);
    };
    EXPECT_EQ(judge(frame_kind::data, 5, run.size()), packet_fault::frame);
    EXPECT_EQ(judge(frame_kind::data, 0, run.size()), packet_fault::frame);
    EXPECT_EQ(judge(frame_kind::fin, 4, run.size()), packet_fault::frame);
    EXPECT_EQ(judge(frame_kind::open, 4, run.size()), packet_fault::frame);
    EXPECT_EQ(judge(frame_kind(0), 4, run.size()), packet_fault::frame);
    EXPECT_EQ(judge(frame_kind(8), 4, run.size()), packet_fault::frame);
    EXPECT_EQ(judge(frame_kind::data, 4, frame_header_bytes - 1), packet_fault::frame);
    EXPECT_EQ(judge(frame_kind::data, 4, run.size()), std::nullopt);
}

TEST(packet, addresses_survive) {
    std::byte at[address_bytes];
    for (const char* text : {"10.1.2.3:80", "[fd00::1]:65535"}) {
        auto a = base::parse_address(text);
        put_address(at, *a);
        EXPECT_EQ(get_address(at), a);
    }
    put_address(at, {});
    EXPECT_EQ(get_address(at), std::nullopt);
}

TEST(packet, a_hello_is_read_and_its_name_is_made_printable) {
    std::byte p[hello_bytes];
    hello_body b{42, 4096, hello_verdict::too_many, 30000, 3, 0x80000005, "node\n1"}, out;
    make_hello(p, 77, 5, b);
    header h;
    EXPECT_EQ(read_hello(p, h, out), std::nullopt);
    EXPECT_EQ(h.session, 77u);
    EXPECT_EQ(h.ack, 5u);
    EXPECT_EQ(out.node, 42u);
    EXPECT_EQ(out.packet_bytes, 4096u);
    EXPECT_EQ(out.answer, hello_verdict::too_many);
    EXPECT_EQ(out.outage_ms, 30000u);
    EXPECT_EQ(out.lane, 3u);
    EXPECT_EQ(out.features, 0x80000005u);
    EXPECT_STREQ(out.name, "node?1");
    b.packet_bytes = 4097;
    make_hello(p, 77, 5, b);
    EXPECT_EQ(read_hello(p, h, out), packet_fault::size);
}

TEST(packet, a_greeting_is_read) {
    std::byte g[greeting_bytes];
    uint16_t lane = 0;
    put_greeting(g, 513);
    EXPECT_EQ(get_greeting(g, lane), std::nullopt);
    EXPECT_EQ(lane, 513u);
    g[0] ^= std::byte(1);
    EXPECT_EQ(get_greeting(g, lane), packet_fault::magic);
}

// Whatever the bytes are: an answer, and no touch beyond them (run under ASan too).
TEST(packet, random_bytes_are_only_refused) {
    const uint64_t seed = seed_of_this_run();
    SCOPED_TRACE("VMSGR_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    size_t taken = 0;
    for (int i = 0; i < 20000; ++i) {
        const size_t size = 64 * (1 + random() % 16);
        std::vector<std::byte> p(size);
        for (auto& b : p) {
            b = std::byte(random());
        }
        if (i % 2 == 0) {
            header h;
            h.type = packet_type(random() % 7);
            h.payload_bytes = uint32_t(random() % (size + 64));
            seal(p, h, crc_cover::packet);
        }
        header h;
        hello_body b;
        if (!invalid(p, h, crc_cover::packet)) {
            ++taken;
            std::span<const std::byte> left = std::span(p).subspan(header_bytes, h.payload_bytes);
            frame f;
            while (!left.empty() && !next_frame(left, f)) {
            }
        }
        if (size >= hello_bytes) {
            (void)read_hello(std::span(p).first(hello_bytes), h, b);
        }
    }
    EXPECT_GT(taken, 1000u);
}

}  // namespace
}  // namespace vmsgr::trunk
