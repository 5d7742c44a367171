// What one engine sends over two connections, for a reader that knows the document alone: tests/component/
// test_trunk_wire.py. VMSGR_CAPTURE names the file; without it the bytes are only made.
#include <fstream>

#include "trunk/tests/ends.hh"

namespace vmsgr::trunk::tests {
namespace {

TEST(capture, two_channels_over_two_connections) {
    const char* path = std::getenv("VMSGR_CAPTURE");
    std::ofstream file(path != nullptr ? path : "/dev/null", std::ios::binary);
    auto write = [&](std::span<const std::byte> bytes) {
        file.write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
    };
    test_end a({.which = side::initiator, .packet_bytes = 1024, .urgent = true}),
        b({.which = side::acceptor, .packet_bytes = 1024});
    b.first_credit = 100000;
    bool bye = false;
    // Everything that a sends is written; b's own goes back unseen.
    auto run = [&](uint64_t now_us, int lose_after) {
        for (bool moved = true; moved;) {
            moved = false;
            while (auto p = a.e.next_packet(now_us)) {
                write(p->bytes());
                moved = true;
                if (lose_after-- > 0) {
                    ASSERT_EQ(b.e.receive(p->bytes(), now_us, bye), std::nullopt);
                }
            }
            while (auto p = b.e.next_packet(now_us)) {
                moved = true;
                ASSERT_EQ(a.e.receive(p->bytes(), now_us, bye), std::nullopt);
            }
        }
    };
    std::byte hello[hello_bytes];
    make_hello(hello, 0, 0,
               {.node = 42,
                .packet_bytes = 1024,
                .outage_ms = 5000,
                .lane = 1,
                .features = feature_urgent,
                .name = "capture"});
    write(hello);
    connect(a, b, 4711, 1000);
    auto *s1 = a.open(), *s2 = a.open();
    run(1000, 1000);
    ASSERT_TRUE(s1->accepted && s2->accepted);
    EXPECT_EQ(s1->send(100), 100u);
    EXPECT_EQ(s2->send(5000), 5000u);
    EXPECT_EQ(s1->send(200), 200u);
    std::byte urgent[] = {pattern(s1->id, side::initiator, 300)};
    const iovec one[] = {{urgent, 1}};
    EXPECT_EQ(a.e.send(s1->id, one, true), 1u);
    run(2000, 2);  // the rest is lost with the connection
    a.e.detach();
    b.e.detach();
    connect(a, b, 4711, 3000);
    s1->grant(1000);
    a.e.fin(s1->id);
    a.e.reset(s2->id, ECONNRESET);
    run(3000, 1000);
    EXPECT_EQ(b.sinks.at(1)->received, 301u);
    EXPECT_EQ(b.sinks.at(2)->received, 5000u);
    ASSERT_TRUE(a.e.tick(1'500'000));
    run(1'500'000, 1000);
    write(a.e.bye(1'600'000)->bytes());
}

}  // namespace
}  // namespace vmsgr::trunk::tests
