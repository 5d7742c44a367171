// Plain tables for a terminal, and numbers as people read them. Single thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vmsgr::cli {

class table {
    struct column {
        std::string title;
        bool right;
    };
    std::vector<column> _columns;
    std::vector<std::vector<std::string>> _rows;

public:
    // Titles; one that begins with '>' is a column of numbers, set to the right.
    explicit table(std::initializer_list<std::string_view> titles);
    void row(std::vector<std::string> cells) { _rows.push_back(std::move(cells)); }
    bool empty() const noexcept { return _rows.empty(); }
    std::string text() const;
};

std::string bytes_text(uint64_t bytes);     // "1.5M"
std::string seconds_text(double seconds);   // "1h02m"

}  // namespace vmsgr::cli
