#include "cli/progress.hh"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "cli/table.hh"

namespace vmsgr::cli {

namespace {

int64_t now_ms() {
    using namespace std::chrono;
    return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

progress::progress(uint64_t all)
    : _shown(::isatty(STDERR_FILENO) != 0), _all(all), _began_ms(now_ms()), _next_ms(_began_ms + period_ms) {}

void progress::at(uint64_t done) {
    if (!_shown || now_ms() < _next_ms) {
        return;
    }
    _next_ms = now_ms() + period_ms;
    print(done, double(now_ms() - _began_ms) / 1e3);
}

double progress::end(uint64_t done) {
    const double seconds = double(now_ms() - _began_ms) / 1e3;
    if (_shown) {
        print(done, seconds);
        fputc('\n', stderr);
    }
    return seconds;
}

void progress::print(uint64_t done, double seconds) const {
    const auto rate = uint64_t(double(done) / std::max(seconds, 1e-3));
    if (_all == 0) {
        fprintf(stderr, "\r%6s  %6s/s  %s   ", bytes_text(done).c_str(), bytes_text(rate).c_str(),
                seconds_text(seconds).c_str());
        return;
    }
    const int percent = int(double(done) * 100 / double(_all));
    constexpr int width = 30;
    fprintf(stderr, "\r[%-*.*s] %3d%%  %6s  %6s/s  %s   ", width, percent * width / 100,
            "==============================", percent, bytes_text(done).c_str(), bytes_text(rate).c_str(),
            rate != 0 && done < _all ? (seconds_text(double(_all - done) / double(rate)) + " left").c_str()
                                     : seconds_text(seconds).c_str());
}

}  // namespace vmsgr::cli
