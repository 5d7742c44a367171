#include "daemon/stats.hh"

#include <algorithm>
#include <charconv>
#include <chrono>

#include "base/process.hh"

namespace vmsgr::daemon {

namespace {

constexpr std::string_view state_texts[] = {"running", "stopped", "silent"};

std::optional<uint64_t> cpu_us(std::string_view schedstat) noexcept {
    uint64_t ns = 0;
    const auto [end, ec] = std::from_chars(schedstat.data(), schedstat.data() + schedstat.size(), ns);
    return ec == std::errc{} ? std::optional(ns / 1000) : std::nullopt;
}

}  // namespace

std::string_view to_text(shard_state s) noexcept { return state_texts[size_t(s)]; }

double stats_reader::uptime_s() const noexcept {
    const auto now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    return std::max(0.0, now - _page->started_s);
}

shard_facts stats_reader::look_at(size_t i) const noexcept {
    char buffer[512];
    const auto& s = _page->of(i);
    shard_facts out;
    const uint64_t tick = s.tick_us, now = shm::stats_now_us();
    out.silent_us = now > tick ? now - tick : 0;
    if (const uint64_t thread = s.thread; thread != 0) {
        out.cpu_us = cpu_us(base::read_of_thread(worker(), thread, "schedstat", buffer));
        const char state = base::state_in(base::read_of_thread(worker(), thread, "stat", buffer));
        if (state == 't' || state == 'T') {
            out.state = shard_state::stopped;
            return out;
        }
    }
    out.state = out.silent_us > shard_silent_us ? shard_state::silent : shard_state::running;
    return out;
}

conf::access_config stats_reader::access() const {
    conf::access_config out;
    if (const auto a = _page->access.read()) {
        out.uids.assign(a->uid.begin(), a->uid.begin() + std::min<size_t>(a->uids, a->uid.size()));
        out.gids.assign(a->gid.begin(), a->gid.begin() + std::min<size_t>(a->gids, a->gid.size()));
        if (a->has_observers != 0) {
            out.observers_gid = a->observers_gid;
        }
    } else {
        out.uids = {0};  // being written, by a shard that is stopped: root, and the daemon's own user
    }
    return out;
}

void publish_access(shm::stats_page& to, const conf::access_config& a) noexcept {
    shm::stats_access out;
    static_assert(std::tuple_size_v<decltype(out.uid)> == 256);  // conf: so many may be listed
    out.uids = uint16_t(std::min(a.uids.size(), out.uid.size()));
    out.gids = uint16_t(std::min(a.gids.size(), out.gid.size()));
    std::copy_n(a.uids.begin(), out.uids, out.uid.begin());
    std::copy_n(a.gids.begin(), out.gids, out.gid.begin());
    out.has_observers = a.observers_gid.has_value();
    out.observers_gid = a.observers_gid.value_or(0);
    to.access.write(out);
}

}  // namespace vmsgr::daemon
