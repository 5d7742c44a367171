// How long something took, in buckets: one writer, readers as base/tally.hh says. The bounds are the same everywhere,
// so that histograms of shards and routes add up.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/tally.hh"

namespace vmsgr::base {

// Upper bounds; what took longer is in one more bucket.
inline constexpr std::array<uint64_t, 12> histogram_bounds_us = {50,     200,    1000,    5000,    20000,    50000,
                                                                 100000, 250000, 1000000, 2500000, 10000000, 60000000};

// A histogram as a plain value.
struct histogram_image {
    std::array<uint64_t, histogram_bounds_us.size() + 1> buckets{};
    uint64_t sum_us = 0;

    histogram_image& operator+=(const histogram_image& o) noexcept {
        for (size_t i = 0; i < buckets.size(); ++i) {
            buckets[i] += o.buckets[i];
        }
        sum_us += o.sum_us;
        return *this;
    }
};

struct histogram {
    std::array<tally, histogram_bounds_us.size() + 1> buckets;
    tally sum_us;

    void add(uint64_t us) noexcept {
        size_t i = 0;
        while (i < histogram_bounds_us.size() && us > histogram_bounds_us[i]) {
            ++i;
        }
        ++buckets[i];
        sum_us += us;
    }
    histogram_image read() const noexcept {
        histogram_image out;
        for (size_t i = 0; i < buckets.size(); ++i) {
            out.buckets[i] = buckets[i].read();
        }
        out.sum_us = sum_us.read();
        return out;
    }
};

}  // namespace vmsgr::base
