#include "daemon/limits.hh"

#include <errno.h>

#include <algorithm>

#include "conf/words.hh"
#include "shm/bell.hh"

namespace vmsgr::daemon {

namespace {

// Kept for the daemon itself: Seastar's own, documents, and what one message of a stranger brings on each shard (the
// kernel takes up to 253), so that it is never closed by the kernel in the call that receives it.
constexpr uint64_t own_descriptors = 128;
constexpr uint64_t passing_descriptors = 64, passing_of_user = 16;
constexpr uint64_t message_descriptors = 256;
constexpr uint64_t least_descriptors = 64;
constexpr uint64_t own_maps = 4096;  // libraries, Seastar's memory, stacks
constexpr uint64_t aio_per_shard = 1024 + 64;
constexpr uint64_t aio_per_shard_linux_aio = 12000;

std::string number(uint64_t n) { return std::to_string(n); }

struct fitting {
    const conf::daemon_config& c;
    const machine& m;
    fitted_limits out;

    const char* here() const { return m.contained ? "this container" : "this machine"; }

    void lower(const char* name, uint64_t& value, uint64_t most, const std::string& why) {
        if (value > most) {
            out.lowered.push_back(std::string("limits.") + name + " is " + number(most) + " and not " + number(value) +
                                  ": " + why);
            value = most;
        }
    }

    base::result<void> processor_and_reactor() {
        if (m.processors != 0 && m.processors < c.shards) {
            return base::fail(EINVAL, "shards: " + number(c.shards) + ", but this process may use only " +
                                          number(m.processors) + " processors; lower shards");
        }
        const uint64_t aio = c.shards *
                             (c.backend == conf::reactor_backend::epoll ? aio_per_shard : aio_per_shard_linux_aio);
        if (m.aio < aio) {
            return base::fail(EAGAIN, "shards: " + number(c.shards) + " need " + number(aio) +
                                          " places of asynchronous I/O, and " + number(m.aio) +
                                          " are left; raise fs.aio-max-nr (sysctl) or lower shards");
        }
        return {};
    }

    base::result<void> memory() {
        const uint64_t least = conf::memory_bytes_per_shard_min * c.shards;
        if (c.memory_bytes > m.memory / 4 * 3) {
            return base::fail(ENOMEM, "memory: " + conf::size_text(c.memory_bytes) + " for the shards, but " + here() +
                                          " has " + conf::size_text(m.memory) +
                                          ", of which three quarters are the most; lower memory" +
                                          (m.memory / 4 * 3 < least ? " and shards" : ""));
        }
        const uint64_t rings = 2 * uint64_t(c.limits.ring_bytes), left = m.memory - c.memory_bytes;
        if (left < rings) {
            return base::fail(ENOMEM, std::string("limits.ring_bytes: ") + here() + " has " + conf::size_text(left) +
                                          " beside the shards, and the two rings of one connection take " +
                                          conf::size_text(rings) + "; lower it");
        }
        out.all.memory = c.limits.memory != 0 ? c.limits.memory : left;
        lower("memory", out.all.memory, left,
              std::string(here()) + " has " + conf::size_text(m.memory) + " and the shards take " +
                  conf::size_text(c.memory_bytes));
        return {};
    }

    base::result<void> descriptors() {
        out.closing = uint32_t(std::clamp<uint64_t>(m.descriptors / 16, 64, 1024));
        const uint64_t reserve = own_descriptors + passing_descriptors + out.closing +
                                 std::min(message_descriptors * (c.shards + 1), m.descriptors / 4);
        if (m.descriptors < reserve + least_descriptors) {
            return base::fail(EMFILE, "only " + number(m.descriptors) + " descriptors allowed, " +
                                          number(reserve + least_descriptors) +
                                          " is the least; raise LimitNOFILE or ulimit -n");
        }
        out.all.fds = m.descriptors - reserve;
        // The kernel counts these to RLIMIT_NOFILE once more. A hello at a door, of which each connection has one at
        // most, takes up to half of it.
        out.all.in_flight = m.descriptors / 4;
        out.all.passing = passing_descriptors;
        const std::string why = number(m.descriptors) + " descriptors are allowed; raise LimitNOFILE or ulimit -n";
        lower("sessions", out.all.sessions, out.all.fds / 2, why);
        lower("listeners", out.all.listeners, out.all.fds / 2 / conn::fds_per_listener, why);
        lower("connections", out.all.connections, out.all.fds / conn::fds_per_connection, why);
        return {};
    }

    base::result<void> maps() {
        if (m.maps < 2 * own_maps) {
            return base::fail(ENOMEM, "only " + number(m.maps) + " memory mappings allowed, " + number(2 * own_maps) +
                                          " is the least; raise vm.max_map_count (sysctl)");
        }
        out.all.maps = m.maps - own_maps;
        lower("sessions", out.all.sessions, out.all.maps / 2,
              number(m.maps) + " memory mappings are allowed; raise vm.max_map_count (sysctl)");
        return {};
    }

    void users() {
        const auto& u = c.limits.per_user;
        auto part = [](uint64_t said, uint64_t all) { return said != 0 ? std::min(said, all) : (all + 1) / 2; };
        out.each_user.sessions = part(u.sessions, out.all.sessions);
        out.each_user.connections = part(u.connections, out.all.connections);
        out.each_user.listeners = part(u.listeners, out.all.listeners);
        out.each_user.fds = part(u.descriptors, out.all.fds);
        out.each_user.memory = part(u.memory, out.all.memory);
        out.each_user.maps = part(0, out.all.maps);
        out.each_user.in_flight = part(0, out.all.in_flight);
        out.each_user.passing = passing_of_user;
    }
};

}  // namespace

base::result<fitted_limits> fit_limits(const conf::daemon_config& c, const machine& m) {
    fitting f{c, m, {}};
    f.out.all.sessions = c.limits.sessions;
    f.out.all.connections = c.limits.connections;
    f.out.all.listeners = c.limits.listeners;
    using step = base::result<void> (fitting::*)();
    for (step s : {step(&fitting::processor_and_reactor), step(&fitting::memory), step(&fitting::descriptors),
                   step(&fitting::maps)}) {
        if (auto r = (f.*s)(); !r) {
            return std::unexpected(r.error());
        }
    }
    f.users();
    return std::move(f.out);
}

base::result<void> check_kernel() {
    auto bell = shm::measure_bell();
    if (!bell) {
        return std::unexpected(bell.error());
    }
    if (!bell->usable()) {
        return base::fail(ENOTSUP, "this kernel counts unix socket buffers in a way that doorbells cannot use (" +
                                       std::to_string(bell->until_unwritable) + " tokens until not writable, " +
                                       std::to_string(bell->until_refused) + " until refused); please report it");
    }
    return {};
}

}  // namespace vmsgr::daemon
