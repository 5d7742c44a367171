// Prometheus' text format: families, each with HELP and TYPE, then their samples. Single thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/histogram.hh"

namespace vmsgr::daemon {

using labels = std::vector<std::pair<const char*, std::string>>;

class metrics {
    std::string _out;
    std::string _name;

public:
    // Samples follow until the next one.
    void family(const char* name, const char* type, std::string_view help);
    void add(const labels& l, uint64_t value) { line("", l, std::to_string(value)); }
    // In seconds, to the microsecond.
    void add_micros(const labels& l, uint64_t us) { line("", l, seconds(us)); }
    void add_histogram(const labels& l, const base::histogram_image& h);
    std::string text() && { return std::move(_out); }
    std::string text() const& { return _out; }

    static std::string seconds(uint64_t us);

private:
    void line(std::string_view suffix, const labels& l, std::string_view value);
};

}  // namespace vmsgr::daemon
