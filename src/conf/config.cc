#include "conf/config.hh"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <sched.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <tuple>

#include "conf/reader.hh"
#include "conf/routes_file.hh"
#include "conf/trunks_file.hh"
#include "conf/words.hh"
#include "shm/segment.hh"

namespace vmsgr::conf {

namespace {

constexpr std::string_view poll_words[] = {"adaptive", "busy"};
constexpr std::string_view namespace_words[] = {"separate", "shared"};
constexpr std::string_view backend_words[] = {"epoll", "linux-aio"};
constexpr std::string_view yes_words[] = {"no", "yes"};
constexpr std::string_view log_words[] = {"error", "warn", "info", "debug", "trace"};
constexpr size_t ids_max = 256;
constexpr size_t socket_bytes_max = 107;  // of sockaddr_un, without the ending NUL

void read_socket(reader& r, const spot& at, std::string& out) {
    auto text = r.scalar(at, "an absolute path");
    if (!text) {
        return;
    }
    if (!text->starts_with('/') || text->ends_with('/')) {
        r.refuse(at, quote(*text) + " is not an absolute path of a socket, such as " + proto::default_socket);
    } else if (text->size() > socket_bytes_max) {
        r.refuse(at, quote(*text) + " has " + std::to_string(text->size()) +
                         " characters; a socket's path has at most " + std::to_string(socket_bytes_max));
    } else {
        out = *text;
    }
}

void read_mode(reader& r, const spot& at, unsigned& out) {
    constexpr std::string_view expected = "an octal mode such as 0660";
    auto text = r.scalar(at, expected);
    if (!text) {
        return;
    }
    unsigned mode = 0;
    auto [end, ec] = std::from_chars(text->data(), text->data() + text->size(), mode, 8);
    if (ec != std::errc{} || end != text->data() + text->size() || mode > 0777) {
        r.refuse(at, quote(*text) + " is not " + std::string(expected));
        return;
    }
    out = mode;
}

std::optional<uint32_t> as_id(std::string_view text) {
    uint32_t id = 0;
    auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), id);
    bool fine = ec == std::errc{} && end == text.data() + text.size() && id != uint32_t(-1);
    return fine ? std::optional(id) : std::nullopt;
}

std::optional<uint32_t> look_up(const std::string& name, bool user) {
    if (auto id = as_id(name)) {
        return id;
    }
    if (user) {
        const passwd* p = ::getpwnam(name.c_str());
        return p == nullptr ? std::nullopt : std::optional<uint32_t>(p->pw_uid);
    }
    const ::group* g = ::getgrnam(name.c_str());
    return g == nullptr ? std::nullopt : std::optional<uint32_t>(g->gr_gid);
}

void read_ids(reader& r, const spot& at, std::vector<uint32_t>& out, bool user) {
    const char* what = user ? "user" : "group";
    r.list(at, std::string("a list of ") + what + "s such as [0, ceph]", [&](const spot& s) {
        auto text = r.scalar(s, std::string("a ") + what);
        if (!text) {
            return;
        }
        auto id = look_up(*text, user);
        if (!id) {
            r.refuse(s, "no " + std::string(what) + " " + quote(*text) + " on this machine");
        } else if (out.size() == ids_max) {
            r.refuse(s, "is one too many; " + std::to_string(ids_max) + " are allowed");
        } else {
            out.push_back(*id);
        }
    });
}

void read_access(reader& r, const spot& at, access_config& out) {
    static_assert(std::is_same_v<uid_t, uint32_t> && std::is_same_v<gid_t, uint32_t>);
    r.mapping(at, {
                      {"mode", [&](const spot& s) { read_mode(r, s, out.mode); }},
                      {"group",
                       [&](const spot& s) {
                           auto text = r.scalar(s, "a group's name");
                           if (text && ::getgrnam(text->c_str()) == nullptr) {
                               r.refuse(s, "no group " + quote(*text) + " on this machine");
                           }
                           out.group = text.value_or("");
                       }},
                      {"uids", [&](const spot& s) { read_ids(r, s, out.uids, true); }},
                      {"gids", [&](const spot& s) { read_ids(r, s, out.gids, false); }},
                      {"observers",
                       [&](const spot& s) {
                           out.observers = r.scalar(s, "a group").value_or("");
                           out.observers_gid = look_up(out.observers, false);
                           if (!out.observers_gid) {
                               r.refuse(s, "no group " + quote(out.observers) + " on this machine");
                           }
                       }},
                  });
}

void read_ring_bytes(reader& r, const spot& at, uint32_t& out) {
    auto n = r.size(at, shm::ring_bytes_min, shm::ring_bytes_max);
    if (!n) {
        return;
    }
    if (!shm::valid_ring_bytes(*n)) {
        r.refuse(at,
                 quote(at.node.Scalar()) + " is not a power of two; the next one is " + size_text(std::bit_ceil(*n)));
        return;
    }
    out = uint32_t(*n);
}

constexpr uint64_t memory_max = 1ull << 50;

void read_user_limits(reader& r, const spot& at, user_limits_config& out) {
    r.mapping(at, {
                      {"sessions", r.number_into(out.sessions, 1, 1u << 20)},
                      {"connections", r.number_into(out.connections, 1, 1u << 24)},
                      {"listeners", r.number_into(out.listeners, 1, 1u << 20)},
                      {"descriptors", r.number_into(out.descriptors, 1, 1u << 26)},
                      {"memory", [&](const spot& s) { out.memory = r.size(s, 1, memory_max).value_or(0); }},
                  });
}

// One user's part of a whole; of a connection's rings. 0 is not said.
void check_limits(reader& r, const spot& at, const limits_config& l) {
    const auto& u = l.per_user;
    const uint64_t rings = 2 * uint64_t(l.ring_bytes);
    const std::tuple<const char*, uint64_t, uint64_t> parts[] = {{"sessions", u.sessions, l.sessions},
                                                                 {"connections", u.connections, l.connections},
                                                                 {"listeners", u.listeners, l.listeners},
                                                                 {"memory", u.memory, l.memory}};
    for (auto [name, of_user, of_all] : parts) {
        if (of_user > of_all && of_all != 0) {
            r.refuse(at, std::string("per_user.") + name + ": " + std::to_string(of_user) + " is more than " + name +
                             " of all users, " + std::to_string(of_all));
        }
    }
    for (auto [name, bytes] : {std::pair("memory", l.memory), std::pair("per_user.memory", u.memory)}) {
        if (bytes != 0 && bytes < rings) {
            r.refuse(at, std::string(name) + ": " + size_text(bytes) +
                             " is less than the two rings of one connection, " + size_text(rings) +
                             "; raise it, or lower ring_bytes");
        }
    }
}

void read_limits(reader& r, const spot& at, limits_config& out) {
    constexpr uint64_t day_ms = 86'400'000;
    r.mapping(at, {
                      {"sessions", r.number_into(out.sessions, 1, 1u << 20)},
                      {"connections", r.number_into(out.connections, 1, 1u << 24)},
                      {"connections_per_session", r.number_into(out.connections_per_session, 1, shm::connected_slots)},
                      {"listeners", r.number_into(out.listeners, 1, 1u << 20)},
                      {"ring_bytes", [&](const spot& s) { read_ring_bytes(r, s, out.ring_bytes); }},
                      {"orphan_ms", r.number_into(out.orphan_ms, 0, day_ms)},
                      {"flush_ms", r.number_into(out.flush_ms, 0, day_ms)},
                      {"memory", [&](const spot& s) { out.memory = r.size(s, 1, memory_max).value_or(0); }},
                      {"per_user", [&](const spot& s) { read_user_limits(r, s, out.per_user); }},
                  });
    if (!r.failed()) {
        check_limits(r, at, out);
    }
}

// "0-3,8"; returns how many processors that is, 0 for a text that is none.
unsigned count_cpus(std::string_view text) {
    cpu_set_t set;
    CPU_ZERO(&set);
    while (true) {
        auto comma = text.find(',');
        auto piece = text.substr(0, comma);
        auto dash = piece.find('-');
        auto first = as_id(piece.substr(0, dash));
        auto last = dash == piece.npos ? first : as_id(piece.substr(dash + 1));
        if (!first || !last || *first > *last || *last >= CPU_SETSIZE) {
            return 0;
        }
        for (uint32_t cpu = *first; cpu <= *last; ++cpu) {
            CPU_SET(cpu, &set);
        }
        if (comma == text.npos) {
            return unsigned(CPU_COUNT(&set));
        }
        text = text.substr(comma + 1);
    }
}

void read_cpuset(reader& r, const spot& at, std::string& out) {
    auto text = r.scalar(at, "processors such as 0-3,8");
    if (!text) {
        return;
    }
    if (!text->empty() && count_cpus(*text) == 0) {
        r.refuse(at, quote(*text) + " is not a set of processors such as 0-3,8");
        return;
    }
    out = *text;
}

void read_watchdog(reader& r, const spot& at, uint32_t& out) {
    constexpr uint32_t least_ms = 100, most_ms = 3'600'000;
    out = uint32_t(r.number(at, 0, most_ms).value_or(0));
    if (!r.failed() && out != 0 && out < least_ms) {
        r.refuse(at,
                 std::to_string(out) + " is less than 100, which a busy machine may need; expected 0 (off) or more");
    }
}

// A port alone is one of this host's loopback address.
void read_metrics(reader& r, const spot& at, base::address& out) {
    r.mapping(at, {{"listen", [&](const spot& s) {
                        if (const auto port = s.node.IsScalar() ? as_id(s.node.Scalar()) : std::nullopt) {
                            out = base::loopback(AF_INET, uint16_t(r.number(s, 1, 65535).value_or(0)));
                        } else if (auto a = r.endpoint(s, "a port such as 9847, or an address with it such as "
                                                          "127.0.0.1:9847")) {
                            out = *a;
                        }
                    }}});
    if (!r.failed() && out.family == 0) {
        r.refuse(at, "'listen' is missing; expected a port such as 9847");
    }
}

template <typename E>
std::function<void(const spot&)> word_into(reader& r, E& out, std::span<const std::string_view> words) {
    return [&r, &out, words](const spot& s) {
        if (auto i = r.word(s, words)) {
            out = E(*i);
        }
    };
}

void read_daemon(reader& r, const spot& top, daemon_config& out) {
    std::optional<spot> shards, memory;
    size_t log = 2;
    fallback_said said;
    r.mapping(top, {
                       {"socket", [&](const spot& s) { read_socket(r, s, out.socket); }},
                       {"shards",
                        [&](const spot& s) {
                            shards = s;
                            out.shards = unsigned(r.number(s, 1, shards_max).value_or(1));
                        }},
                       {"memory",
                        [&](const spot& s) {
                            memory = s;
                            out.memory_bytes = r.size(s, memory_bytes_per_shard_min, 1ull << 50).value_or(0);
                        }},
                       {"access", [&](const spot& s) { read_access(r, s, out.access); }},
                       {"limits", [&](const spot& s) { read_limits(r, s, out.limits); }},
                       {"network_namespaces", word_into(r, out.networks, namespace_words)},
                       {"poll_mode", word_into(r, out.polling, poll_words)},
                       {"idle_poll_us", r.number_into(out.idle_poll_us, 0, 1'000'000)},
                       {"reactor_backend", word_into(r, out.backend, backend_words)},
                       {"cpuset", [&](const spot& s) { read_cpuset(r, s, out.cpuset); }},
                       {"log_level", word_into(r, log, log_words)},
                       {"metrics", [&](const spot& s) { read_metrics(r, s, out.metrics); }},
                       {"watchdog_ms", [&](const spot& s) { read_watchdog(r, s, out.watchdog_ms); }},
                       {"user", [&](const spot& s) { out.user = r.scalar(s, "a user").value_or(""); }},
                       {"seccomp", word_into(r, out.seccomp, yes_words)},
                       {"routes", [&](const spot& s) { read_routes(r, s, out.routes, said); }},
                       {"trunk", [&](const spot& s) { read_trunk(r, s, out.trunks); }},
                       {"trunks", [&](const spot& s) { read_trunks(r, s, out.trunks); }},
                   });
    if (r.failed()) {
        return;
    }
    complete_trunks(out.trunks);
    complete_routes(out.routes, said, out.trunks.tls.on());
    out.log_level = log_words[log];
    unsigned cpus = out.cpuset.empty() ? 0 : count_cpus(out.cpuset);
    if (cpus != 0 && !shards) {
        out.shards = std::min(cpus, shards_default_max);  // they are set aside for it
    } else if (cpus != 0 && out.shards > cpus) {
        r.refuse(*shards, std::to_string(out.shards) + " is more than the " + std::to_string(cpus) +
                              " processors of cpuset " + quote(out.cpuset));
    }
    if (!memory) {
        out.memory_bytes = memory_bytes_per_shard_default * out.shards;
    } else if (out.memory_bytes / out.shards < memory_bytes_per_shard_min) {
        r.refuse(*memory, quote(memory->node.Scalar()) + " is too little for " + std::to_string(out.shards) +
                              " shards; expected at least " + size_text(memory_bytes_per_shard_min * out.shards));
    }
}

template <typename T>
base::result<T> outcome(const reader& r, T& value) {
    if (r.failed()) {
        return std::unexpected(r.error());
    }
    return std::move(value);
}

}  // namespace

std::string_view to_text(poll_mode m) noexcept { return poll_words[size_t(m)]; }
std::string_view to_text(reactor_backend b) noexcept { return backend_words[size_t(b)]; }

unsigned default_shards() noexcept {
    cpu_set_t set;
    CPU_ZERO(&set);
    int n = ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return std::clamp(unsigned(n) / 2, 1u, shards_default_max);
}

base::result<daemon_config> parse_daemon_config(std::string_view text, const std::string& name) {
    reader r(name);
    daemon_config c;
    if (auto top = r.document(text)) {
        read_daemon(r, *top, c);
    }
    return outcome(r, c);
}

base::result<proto::route_table> parse_routes_file(std::string_view text, const std::string& name) {
    // The whole file is checked, so that one mistake is reported alike by vmsgr and vmsgrd.
    reader r(name);
    daemon_config c;
    if (auto top = r.document(text)) {
        if (!top->node["routes"]) {
            r.refuse(*top, "'routes:' is missing; expected a list of routes");
        }
        read_daemon(r, *top, c);
    }
    return outcome(r, c.routes);
}

base::result<daemon_config> load_daemon_config(const std::string& path) {
    reader r(path);
    auto text = read_file(path, r);
    if (!text) {
        return std::unexpected(r.error());
    }
    return parse_daemon_config(*text, path);
}

base::result<proto::route_table> load_routes(const std::string& path) {
    reader r(path);
    auto text = read_file(path, r);
    if (!text) {
        return std::unexpected(r.error());
    }
    return parse_routes_file(*text, path);
}

}  // namespace vmsgr::conf
