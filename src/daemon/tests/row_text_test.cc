#include "daemon/row_text.hh"

#include <gtest/gtest.h>

#include <limits>

namespace vmsgr::daemon {
namespace {

using json = nlohmann::json;

TEST(row_text, fields_of_each_kind_are_read_as_they_were_written) {
    std::string out;
    row_text row(out);
    row.add("id", ~uint64_t{0}).add("fd", -1).add("on", true).add("peer", base::loopback(AF_INET, 80));
    row.open("plain").add("cause", "go").add("moved", false).end();
    row.add_null("none").add_seconds("at_s", 1764420000.1234, 3).end();
    EXPECT_EQ(out, R"({"id":18446744073709551615,"fd":-1,"on":true,"peer":"127.0.0.1:80",)"
                   R"("plain":{"cause":"go","moved":false},"none":null,"at_s":1764420000.123})");
    EXPECT_TRUE(json::accept(out));
}

TEST(row_text, what_a_stranger_wrote_stays_a_string) {
    for (const std::string text : {"", "\"},{\"a\":\"", "\\", "\x1b[31m\n", "\xff\xfe", "\xc3\xa4"}) {
        std::string out;
        row_text row(out);
        row.add("name", text).add("behind", 1).end();
        const auto read = json::parse(out, nullptr, false);
        ASSERT_TRUE(read.is_object()) << out;
        EXPECT_EQ(read["behind"], 1);
        EXPECT_EQ(read.size(), 2u);
        EXPECT_TRUE(std::ranges::all_of(out, [](char c) { return c >= ' ' && c < 127; })) << out;
    }
}

TEST(row_text, seconds_that_are_none_are_null) {
    using limits = std::numeric_limits<double>;
    for (const double s : {limits::quiet_NaN(), limits::infinity(), -limits::infinity(), limits::max()}) {
        std::string out;
        row_text row(out);
        row.add_seconds("at_s", s, 3).end();
        EXPECT_EQ(out, R"({"at_s":null})");
    }
}

}  // namespace
}  // namespace vmsgr::daemon
