#include "cli/json_text.hh"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <vector>

namespace vmsgr::cli {
namespace {

using json = nlohmann::json;

std::vector<std::string> elements(std::string_view text) {
    std::vector<std::string> out;
    for (json_walk walk(text); walk.next();) {
        out.emplace_back(walk.value);
    }
    return out;
}

TEST(json_text, elements_end_where_they_end) {
    EXPECT_EQ(elements(R"([{"a":[1,{"b":"]}"}]},[],"x,\"y\\",-1.5e3,null])"),
              (std::vector<std::string>{R"({"a":[1,{"b":"]}"}]})", "[]", R"("x,\"y\\")", "-1.5e3", "null"}));
    EXPECT_EQ(elements(" [ 1 , { } ] "), (std::vector<std::string>{"1", "{ }"}));
    EXPECT_TRUE(elements("[]").empty());
    EXPECT_TRUE(elements("").empty());
    EXPECT_TRUE(elements("17").empty());
}

TEST(json_text, members_are_found_by_their_key) {
    constexpr std::string_view row = R"({"id":7,"deep":{"fd":1},"fd":23,"route":"a\"b","none":null})";
    EXPECT_EQ(member_of(row, "fd"), "23");
    EXPECT_EQ(member_of(row, "deep"), R"({"fd":1})");
    EXPECT_EQ(member_of(row, "b"), "");
    EXPECT_EQ(shown_member(row, "route"), "a\"b");
    EXPECT_EQ(shown_member(row, "id"), "7");
    EXPECT_EQ(shown_member(row, "none"), "-");
    EXPECT_EQ(shown_member(row, "other"), "-");
}

TEST(json_text, a_text_that_ends_early_is_read_to_its_end) {
    constexpr std::string_view whole = R"({"a":[1,{"b":"c\"d"}],"e":"f\\","g":null,"h":{}})";
    for (size_t n = 0; n < whole.size(); ++n) {
        const auto text = whole.substr(0, n);
        for (json_walk walk(text); walk.next();) {
            elements(walk.value);
        }
        for (const char* key : {"a", "e", "g", "h"}) {
            shown_member(text, key);
        }
        indented(text);
        EXPECT_EQ(member_of(text, "zz"), "");
    }
}

TEST(json_text, it_is_indented_as_by_the_library) {
    for (const char* text :
         {"{}", "[]", R"([1,2,[]])", R"({"a":{},"b":[{"c":"d: e, {f}","g":[null,true,-1.5]}],"h":"\\\""})"}) {
        EXPECT_EQ(indented(text), json::parse(text).dump(2));
        EXPECT_EQ(indented(json::parse(text).dump(4)), json::parse(text).dump(2));
    }
}

}  // namespace
}  // namespace vmsgr::cli
