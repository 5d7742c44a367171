#include "daemon/metrics_text.hh"

#include <cstdio>

namespace vmsgr::daemon {

namespace {

// A label's value may hold anything but these.
void escape(std::string& out, std::string_view value) {
    for (char c : value) {
        if (c == '\\' || c == '"') {
            out += '\\';
        }
        c == '\n' ? out += "\\n" : out += c;
    }
}

}  // namespace

std::string metrics::seconds(uint64_t us) {
    char text[40];
    const int n = snprintf(text, sizeof text, "%llu.%06llu", static_cast<unsigned long long>(us / 1'000'000),
                           static_cast<unsigned long long>(us % 1'000'000));
    std::string out(text, size_t(n));
    out.erase(out.find_last_not_of('0') + 1);
    if (out.ends_with('.')) {
        out.pop_back();
    }
    return out;
}

void metrics::family(const char* name, const char* type, std::string_view help) {
    _name = name;
    _out += "# HELP " + _name + ' ';
    _out += help;
    _out += "\n# TYPE " + _name + ' ';
    _out += type;
    _out += '\n';
}

void metrics::add_histogram(const labels& l, const base::histogram_image& h) {
    uint64_t below = 0;
    auto with_bound = l;
    with_bound.emplace_back("le", "");
    for (size_t i = 0; i < h.buckets.size(); ++i) {
        below += h.buckets[i];
        with_bound.back().second = i < base::histogram_bounds_us.size() ? seconds(base::histogram_bounds_us[i])
                                                                        : "+Inf";
        line("_bucket", with_bound, std::to_string(below));
    }
    line("_sum", l, seconds(h.sum_us));
    line("_count", l, std::to_string(below));
}

void metrics::line(std::string_view suffix, const labels& l, std::string_view value) {
    _out += _name;
    _out += suffix;
    char before = '{';
    for (auto& [name, text] : l) {
        _out += before;
        _out += name;
        _out += "=\"";
        escape(_out, text);
        _out += '"';
        before = ',';
    }
    _out += l.empty() ? " " : "} ";
    _out += value;
    _out += '\n';
}

}  // namespace vmsgr::daemon
