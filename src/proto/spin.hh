// The spin budget as people write it: `vmsgr run --spin-us N` and $VMSGR_SPIN_US. Any thread.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string_view>

namespace vmsgr::proto {

// A waiting call looks for so long before it sleeps. More than a sleep and a wake-up take is of no use to the waiter
// and takes the processor from others.
inline constexpr uint32_t spin_us_default = 20;
inline constexpr uint32_t spin_us_max = 1000;
inline constexpr const char* spin_variable = "VMSGR_SPIN_US";
inline constexpr const char* spin_range = "a whole number of microseconds from 0 (never) to 1000";

inline std::optional<uint32_t> parse_spin_us(std::string_view text) noexcept {
    uint32_t us = 0;
    auto [end, err] = std::from_chars(text.data(), text.data() + text.size(), us);
    if (err != std::errc{} || end != text.data() + text.size() || us > spin_us_max) {
        return std::nullopt;
    }
    return us;
}

}  // namespace vmsgr::proto
