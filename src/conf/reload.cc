#include "conf/config.hh"

namespace vmsgr::conf {

std::vector<std::string> keep_fixed(const daemon_config& present, daemon_config& fresh) {
    std::vector<std::string> out;
    auto keep = [&](const char* key, const auto& now, auto& then) {
        if (now != then) {
            out.emplace_back(key);
            then = now;
        }
    };
    keep("socket", present.socket, fresh.socket);
    keep("shards", present.shards, fresh.shards);
    keep("memory", present.memory_bytes, fresh.memory_bytes);
    keep("network_namespaces", present.networks, fresh.networks);
    keep("poll_mode", present.polling, fresh.polling);
    keep("idle_poll_us", present.idle_poll_us, fresh.idle_poll_us);
    keep("reactor_backend", present.backend, fresh.backend);
    keep("watchdog_ms", present.watchdog_ms, fresh.watchdog_ms);
    keep("user", present.user, fresh.user);
    keep("seccomp", present.seccomp, fresh.seccomp);
    keep("cpuset", present.cpuset, fresh.cpuset);
    keep("limits.ring_bytes", present.limits.ring_bytes, fresh.limits.ring_bytes);
    keep("metrics.listen", present.metrics, fresh.metrics);
    keep("trunk.listen", present.trunks.listen, fresh.trunks.listen);
    if (present.trunks.tls.on() != fresh.trunks.tls.on()) {
        keep("trunk.tls", present.trunks.tls, fresh.trunks.tls);
    }
    return out;
}

}  // namespace vmsgr::conf
