// Urgent bytes on their way from one engine to another.
#include "trunk/tests/ends.hh"

namespace vmsgr::trunk::tests {
namespace {

// What a sink gets: the bytes, and where the urgent ones lie.
struct marks_sink final : channel_sink {
    std::string got;
    std::vector<size_t> urgent_at;
    void on_accepted() noexcept override {}
    void on_refused(int) noexcept override {}
    void on_data(std::span<const std::byte> bytes, bool urgent) noexcept override {
        got.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        if (urgent) {
            urgent_at.push_back(got.size() - 1);
        }
    }
    void on_fin() noexcept override {}
    void on_writable() noexcept override {}
    void on_reset(int) noexcept override {}
};

// One channel from `a`, whose other end sends "ab", then "c!" of which the last is urgent, then "de" and an urgent "?".
marks_sink send_urgent(bool sender_knows, bool receiver_knows) {
    test_end a({.which = side::initiator, .packet_bytes = 1024, .urgent = receiver_knows});
    test_end b({.which = side::acceptor, .packet_bytes = 1024, .urgent = sender_knows});
    connect(a, b);
    marks_sink sink;
    const auto any = *base::parse_address("10.0.0.1:80");
    const uint64_t id = a.e.open(any, any, 1000, sink);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    auto send = [&](std::string text, bool urgent) {
        const iovec one[] = {{text.data(), text.size()}};
        EXPECT_EQ(b.e.send(id, one, urgent), text.size());
    };
    send("ab", false);
    send("c!", true);
    send("de", false);
    send("?", true);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    a.e.end(ECONNRESET);
    return sink;
}

TEST(urgent, a_byte_comes_as_it_was_sent_and_those_around_it_do_not) {
    const auto sink = send_urgent(true, true);
    EXPECT_EQ(sink.got, "abc!de?");
    EXPECT_EQ(sink.urgent_at, (std::vector<size_t>{3, 6}));
}

TEST(urgent, it_is_an_ordinary_byte_where_one_side_does_not_know_such_a_thing) {
    for (bool sender_knows : {false, true}) {
        const auto sink = send_urgent(sender_knows, false);
        EXPECT_EQ(sink.got, "abc!de?");
        EXPECT_TRUE(sink.urgent_at.empty());
    }
    EXPECT_TRUE(send_urgent(false, true).urgent_at.empty());
}

TEST(urgent, a_byte_of_which_there_is_no_credit_is_urgent_when_it_is_sent_again) {
    test_end a({.which = side::initiator, .packet_bytes = 1024, .urgent = true});
    test_end b({.which = side::acceptor, .packet_bytes = 1024, .urgent = true});
    connect(a, b);
    marks_sink sink;
    const auto any = *base::parse_address("10.0.0.1:80");
    const uint64_t id = a.e.open(any, any, 2, sink);
    ASSERT_EQ(exchange(a, b), std::nullopt);
    char text[] = "ab!";
    const iovec all[] = {{text, 3}}, last[] = {{text + 2, 1}};
    EXPECT_EQ(b.e.send(id, all, true), 2u);
    ASSERT_EQ(exchange(a, b), std::nullopt);
    EXPECT_TRUE(sink.urgent_at.empty());
    a.e.grant(id, 3);
    ASSERT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(b.e.send(id, last, true), 1u);
    ASSERT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(sink.got, "ab!");
    EXPECT_EQ(sink.urgent_at, (std::vector<size_t>{2}));
    a.e.end(ECONNRESET);
}

}  // namespace
}  // namespace vmsgr::trunk::tests
