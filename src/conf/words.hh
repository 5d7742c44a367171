// Words for people: the nearest of the known ones ("did you mean"), and quoting of what somebody else wrote, so
// that an error stays one line whatever the input was. Any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace vmsgr::conf {

// The candidate that a typing mistake away from `word` would give; empty when none is near.
std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);

// "; did you mean 'direct'?" or nothing.
std::string did_you_mean(std::string_view word, std::span<const std::string_view> candidates);

// text with control characters and what is not ASCII as \xNN.
std::string one_line(std::string_view text);
// 'text', as one_line gives it, cut after quoted_bytes_max.
inline constexpr size_t quoted_bytes_max = 80;
std::string quote(std::string_view text);

// "posix, direct, deny"
std::string listed(std::span<const std::string_view> words);

// 262144 -> "256K"; what is no whole number of a unit stays as bytes.
std::string size_text(uint64_t bytes);

}  // namespace vmsgr::conf
