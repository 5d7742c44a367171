#include "conf/words.hh"

#include <algorithm>
#include <cstdio>
#include <vector>

namespace vmsgr::conf {

namespace {

// Optimal string alignment: insertions, deletions, replacements and swapped neighbours.
size_t distance(std::string_view a, std::string_view b) {
    std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
    for (size_t i = 0; i <= a.size(); ++i) {
        for (size_t j = 0; j <= b.size(); ++j) {
            if (i == 0 || j == 0) {
                d[i][j] = i + j;
                continue;
            }
            size_t cost = a[i - 1] == b[j - 1] ? 0 : 1;
            d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + cost});
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
            }
        }
    }
    return d[a.size()][b.size()];
}

}  // namespace

std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates) {
    constexpr size_t word_bytes_max = 64;  // nobody mistypes more
    if (word.empty() || word.size() > word_bytes_max) {
        return {};
    }
    std::string_view best;
    size_t best_distance = std::max<size_t>(1, word.size() / 3) + 1;
    for (auto c : candidates) {
        size_t d = distance(word, c);
        // A beginning of at least three letters counts as one mistake: "conn" for "conns", "conf" for "config".
        if (d > 1 && word.size() >= 3 && c.starts_with(word)) {
            d = 1;
        }
        if (d < best_distance) {
            best = c;
            best_distance = d;
        }
    }
    return best;
}

std::string did_you_mean(std::string_view word, std::span<const std::string_view> candidates) {
    auto near = nearest(word, candidates);
    return near.empty() ? std::string() : "; did you mean '" + std::string(near) + "'?";
}

std::string one_line(std::string_view text) {
    std::string out;
    for (char character : text) {
        const auto c = static_cast<unsigned char>(character);
        if (c < ' ' || c >= 127) {
            char hex[8];
            snprintf(hex, sizeof hex, "\\x%02x", c);
            out += hex;
        } else {
            out += character;
        }
    }
    return out;
}

std::string quote(std::string_view text) {
    return "'" + one_line(text.substr(0, quoted_bytes_max)) + (text.size() > quoted_bytes_max ? "...'" : "'");
}

std::string listed(std::span<const std::string_view> words) {
    std::string out;
    for (auto w : words) {
        out += out.empty() ? "" : ", ";
        out += w;
    }
    return out;
}

std::string size_text(uint64_t bytes) {
    constexpr std::pair<uint64_t, const char*> units[] = {{1ull << 30, "G"}, {1ull << 20, "M"}, {1ull << 10, "K"}};
    for (auto [unit, letter] : units) {
        if (bytes != 0 && bytes % unit == 0) {
            return std::to_string(bytes / unit) + letter;
        }
    }
    return std::to_string(bytes);
}

}  // namespace vmsgr::conf
