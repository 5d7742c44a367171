// JSON text taken apart without a tree of it. The daemon's lists may be long, most of their rows are passed on or left
// alone, and a tree of all costs more than all the rest of a command.
//
// The text is expected to be valid JSON, as the daemon's is: what is not is taken for the end, and nothing beyond it is
// read. Views point into the text. Single thread.
#pragma once

#include <string>
#include <string_view>

namespace vmsgr::cli {

class json_walk {
    std::string_view _left;
    bool _first = true;
    const bool _of_object;

public:
    // Through the members of an object or the elements of an array.
    explicit json_walk(std::string_view text);
    // To the next; false: there is none.
    bool next();
    std::string_view key;  // of a member, as it stands between its quotes
    std::string_view value;

private:
    bool take(char c);
    std::string_view take_value();
};

// Of an object: the text of the value under key; empty: there is none.
std::string_view member_of(std::string_view object, std::string_view key);
// A value for tables: a string without its quotes, "-" for what is not there or null.
std::string shown(std::string_view value);
std::string shown_member(std::string_view object, std::string_view key);
// For people: two blanks for each level.
std::string indented(std::string_view text);

}  // namespace vmsgr::cli
