#include "cli/measure.hh"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "cli/reach.hh"

namespace vmsgr::cli {

namespace {

enum mode : uint32_t { echo = 1, count = 2, tell = 3 };

// From the client; the server answers with the messages counted since the last one.
struct order {
    char magic[8] = {'V', 'M', 'S', 'G', 'R', 'P', 'R', 'F'};
    uint32_t what = echo;
    uint32_t spare = 0;
    uint64_t counted = 0;
};

constexpr int answer_timeout_ms = 10'000;
constexpr unsigned looks_a_clock = 16;

double now_us() {
    using namespace std::chrono;
    return duration<double, std::micro>(steady_clock::now().time_since_epoch()).count();
}

bool is_order(std::span<const std::byte> message, order& o) {
    if (message.size() != sizeof o) {
        return false;
    }
    memcpy(&o, message.data(), sizeof o);
    return memcmp(o.magic, order{}.magic, sizeof o.magic) == 0;
}

}  // namespace

void serve_measurements(vmsgr::channel c) {
    uint32_t what = echo;
    uint64_t counted = 0;
    for (;;) {
        auto message = c.peek();
        if (!message) {
            return;
        }
        order o;
        std::error_code e;
        if (is_order(message->bytes(), o)) {
            what = o.what;
            if (what == tell) {
                o.counted = std::exchange(counted, 0);
            }
            e = c.send(bytes_of(o));
        } else if (what == echo) {
            e = c.send(message->bytes());
        } else {
            ++counted;
        }
        if (e) {
            return;
        }
    }
}

latencies summed_up(std::vector<double> us) {
    if (us.empty()) {
        return {};
    }
    std::ranges::sort(us);
    auto at = [&](double share) { return us[std::min(us.size() - 1, size_t(share * double(us.size())))]; };
    return {us.front(), at(0.5), at(0.99), us.back(), us.size()};
}

measuring_client::measuring_client(vmsgr::channel c) : _c(std::move(c)), _zeros(_c.max()), _came(_c.max()) {}

template <typename E>
std::unexpected<base::error> measuring_client::failed(const E& e) const {
    const bool silent = e == std::errc::timed_out || e.value() == ENODATA;
    return base::fail(e.value(), silent ? "no answer: is the other side `vmsgr perf --serve`?" : reason(_c, e));
}

base::result<uint64_t> measuring_client::ask(uint32_t mode) {
    order o;
    o.what = mode;
    if (auto e = _c.send(bytes_of(o), 0, answer_timeout_ms)) {
        return failed(e);
    }
    auto n = _c.recv(_came, answer_timeout_ms);
    if (!n) {
        return failed(n.error());
    }
    if (!is_order(std::span(_came).first(*n), o)) {
        return base::fail(EPROTO, "the other side gives another answer: it is not a `vmsgr perf --serve`");
    }
    return o.counted;
}

base::result<double> measuring_client::round_trip(size_t bytes) {
    const double begin = now_us();
    if (auto e = _c.send(std::span(_zeros).first(bytes), 0, answer_timeout_ms)) {
        return failed(e);
    }
    auto n = _c.recv(_came, answer_timeout_ms);
    if (!n) {
        return failed(n.error());
    }
    if (*n != bytes) {
        return base::fail(EPROTO, "not what was sent came back: the other side is not a `vmsgr perf --serve`");
    }
    return now_us() - begin;
}

base::result<latencies> measuring_client::round_trips(size_t bytes, double seconds) {
    if (auto e = ask(echo); !e) {
        return std::unexpected(e.error());
    }
    std::vector<double> us;
    for (const double end = now_us() + seconds * 1e6; now_us() < end;) {
        auto one = round_trip(bytes);
        if (!one) {
            return std::unexpected(one.error());
        }
        us.push_back(*one);
    }
    return summed_up(std::move(us));
}

base::result<flow_rate> measuring_client::flow(size_t bytes, double seconds, unsigned batch) {
    auto begins = [&](uint64_t) { return ask(count); };
    if (auto e = ask(tell).and_then(begins); !e) {
        return std::unexpected(e.error());
    }
    const auto message = std::span(_zeros).first(bytes);
    uint64_t sent = 0;
    const double begin = now_us();
    for (const double end = begin + seconds * 1e6; now_us() < end;) {
        for (unsigned i = 0; i < std::max(looks_a_clock, batch); ++i) {
            if (auto e = _c.send(message, ++sent % batch == 0 ? 0 : VMSGR_MORE)) {
                return failed(e);
            }
        }
    }
    _c.flush();
    auto counted = ask(tell);  // comes after the last message was taken
    const double took_s = (now_us() - begin) / 1e6;
    if (!counted) {
        return std::unexpected(counted.error());
    }
    if (*counted != sent) {
        return base::fail(EPROTO, std::to_string(sent) + " messages were sent, " + std::to_string(*counted) + " came");
    }
    return flow_rate{double(sent) / took_s, double(sent) * double(bytes) / took_s};
}

}  // namespace vmsgr::cli
