// vmsgrd: reads its configuration, checks the machine, makes the control socket, becomes the keeper, and only then
// starts the worker with Seastar; so whatever is wrong is one line on stderr and nothing is half started.
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <system_error>
#include <vector>

#include <seastar/core/thread.hh>

#include "base/sockets.hh"
#include "daemon/door_keeper.hh"
#include "daemon/journal.hh"
#include "daemon/limits.hh"
#include "daemon/options.hh"
#include "daemon/privileges.hh"
#include "daemon/reactor_options.hh"
#include "daemon/service.hh"
#include "daemon/stats_server.hh"
#include "daemon/upgrade.hh"
#include "keeper/keeper.hh"
#include "local/registry.hh"

namespace {

using namespace vmsgr;

constexpr int start_error = 1;
constexpr int usage_error = 2;

daemon::upgrade_report report;  // of a new version to whoever has started it

int complain(const std::string& text, int exit_code) {
    if (report) {
        report.failed(text);
    } else {
        fprintf(stderr, "vmsgrd: %s\n", text.c_str());
    }
    return exit_code;
}

int serve(const conf::daemon_config& config, const std::string& path, attach::control_socket& socket,
          const daemon::machine& machine, const daemon::fitted_limits& limits, keeper::seat at,
          local::registry& listeners, shm::stats_page& page) {
    auto signals = daemon::signals::start(std::move(at.orders), daemon::stop_limit(config));
    if (!signals) {
        return complain(signals.error().text, start_error);
    }
    socket.leave_files();
    static daemon::journal journal;  // what logs last is destroyed after main()
    const bool journalled = daemon::journal::wanted() && journal.connected();
    seastar::app_template app(daemon::reactor_options(config, !journalled));
    char name[] = "vmsgrd";
    char* argv[] = {name, nullptr};
    return app.run(1, argv, [&] {
        return seastar::async([&] {
            daemon::set_log_levels(config);
            if (journalled) {
                seastar::logger::set_ostream(journal.out());
            }
            try {
                daemon::service(config, path, socket, machine, limits, at, listeners, page).run(**signals, app.alien());
                return 0;
            } catch (const std::exception& e) {
                return complain(e.what(), start_error);
            }
        });
    });
}

// The rights of root served to make the sockets and to raise limits.
base::result<void> give_up(const conf::daemon_config& config, attach::control_socket& socket) {
    if (!config.user.empty()) {
        auto account = daemon::find_account(config.user);
        if (!account) {
            return std::unexpected(account.error());
        }
        if (::geteuid() == 0) {
            if (auto given = socket.give_to(account->uid); !given) {
                return given;
            }
        }
        daemon::bound_capabilities(account->uid);
        if (auto became = daemon::become(*account); !became) {
            return became;
        }
    } else {
        daemon::bound_capabilities(::geteuid());
    }
    if (auto dropped = daemon::drop_capabilities(); !dropped || !config.seccomp) {
        return dropped;
    }
    return daemon::restrict_system_calls();
}

base::unique_fd copy_of(int fd) noexcept { return base::unique_fd(fd < 0 ? -1 : ::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

void tell(int helper) noexcept {
    const ssize_t written = ::write(helper, "", 1);
    (void)written;  // it has ended
}

// All that a keeper begins with.
struct start {
    daemon::options options;
    std::string path;  // of the configuration
    conf::daemon_config config;
    std::optional<keeper::predecessor> before;
    std::optional<daemon::machine> machine;
    std::optional<daemon::fitted_limits> limits;
    std::optional<attach::control_socket> socket;
    base::unique_fd metrics;
    shm::new_page page;
    uint16_t registry = 0;  // its turn
    int doors = -1, stats = -1;  // the helpers' ends

    shm::stats_page& shown() const { return *reinterpret_cast<shm::stats_page*>(page.memory.data()); }
};

// The processes beside the daemon, which end with what is returned.
base::result<std::vector<base::unique_fd>> start_helpers(start& s) {
    auto doors = daemon::start_door_keeper(s.socket->doors());
    if (!doors) {
        return std::unexpected(doors.error());
    }
    auto stats = daemon::start_stats_server(s.page, {std::move(s.socket->stats()), std::move(s.metrics)},
                                            bool(s.before));
    if (!stats) {
        return std::unexpected(stats.error());
    }
    s.doors = doors->get();
    s.stats = stats->get();
    std::vector<base::unique_fd> all;
    all.push_back(std::move(*doors));
    all.push_back(std::move(*stats));
    return all;
}

// What all workers map, one after the other; after the helpers have started, which have nothing of it.
base::result<std::unique_ptr<local::registry>> make_registry(const start& s) {
    try {
        return std::make_unique<local::registry>(s.config.networks == conf::namespaces::shared, s.registry);
    } catch (const std::system_error& e) {
        return base::fail(e.code().value(), e.what());
    }
}

// Of the ledger: shard 0 has all sessions in its share, and a listener has two lifelines at most.
size_t entries_for(const conn::amounts& a, size_t shards) {
    return a.connections + 3 * a.listeners + shards * a.sessions;
}

void has_taken_over(start& s, const keeper::upgrade_message& from, int64_t pause_ns) {
    const auto owned = s.socket->own_files(s.config.access);
    tell(s.stats);
    const std::string but = owned ? "" : "; but access is as it was: " + owned.error().text;
    report.succeeded("vmsgrd " + std::string(proto::version_text) + " (pid " + std::to_string(::getpid()) +
                     ") has taken over from vmsgrd " + std::string(keeper::text_in(from)) + " (pid " +
                     std::to_string(from.pid) + "); the pause was " + std::to_string(pause_ns / 1'000'000) +
                     " ms at most" + but);
}

keeper::upgrade_offer offer_of(start& s) {
    keeper::upgrade_offer o;
    o.listening = s.socket->upgrade();
    o.control = s.socket->fd();
    o.version = proto::version_text;
    o.config = s.path.empty() ? "" : std::filesystem::absolute(s.path).string();
    o.options = daemon::options_to_bits(s.options);
    o.shards = s.config.shards;
    keeper::own_file(o.file);
    o.registry = s.registry;
    o.stats = copy_of(s.socket->stats().get());
    o.metrics = copy_of(s.metrics.get());
    return o;
}

// What is in `s` outlives it.
base::result<keeper::keeper> become_keeper(start& s, keeper::supervisor manager, keeper::voice voice) {
    auto offer = offer_of(s);
    auto helpers = start_helpers(s);
    if (!helpers) {
        return std::unexpected(helpers.error());
    }
    keeper::settings set{.shards = s.config.shards,
                         .entries = entries_for(s.limits->all, s.config.shards),
                         .watchdog_ms = s.config.watchdog_ms,
                         .control = s.socket->fd(),
                         .stopping = [&s] { s.socket->close(); },
                         .offer = std::move(offer),
                         .taken_over = [&s](auto& from, int64_t pause_ns) { has_taken_over(s, from, pause_ns); }};
    return keeper::keeper::make(std::move(set), std::move(manager), std::move(voice), s.shown(), std::move(*helpers),
                                std::move(s.before));
}

// In the keeper until vmsgrd ends, and in each worker until that does.
int keep(keeper::keeper& k, start& s) {
    auto listeners = make_registry(s);
    if (!listeners) {
        return complain(listeners.error().text, start_error);
    }
    if (auto seat = k.run()) {
        report.leave();
        return serve(s.config, s.path, *s.socket, *s.machine, *s.limits, std::move(*seat), **listeners, s.shown());
    }
    if (k.has_failed()) {
        tell(s.doors);
        return complain("no upgrade: " + k.why() + "; the vmsgrd that ran goes on, see its log", start_error);
    }
    if (k.handed_over()) {
        s.socket->leave_files();
        tell(s.doors);
    }
    return k.exit_code();
}

base::result<void> load(start& s) {
    if (s.path.empty()) {
        return {};
    }
    auto loaded = conf::load_daemon_config(s.path);
    if (!loaded) {
        return std::unexpected(loaded.error());
    }
    s.config = std::move(*loaded);
    return {};
}

// status: as the service manager is told.
void report_reload(std::string_view status) {
    const auto text = status.substr(std::min(status.size(), status.find("STATUS=") + 7));
    if (text.contains("SIGHUP changed nothing")) {
        report.failed(text);
    } else {
        report.succeeded("vmsgrd has read its configuration again: " + std::string(text));
    }
}

// Asks the daemon that runs, and is configured as it was, unless it is told otherwise.
base::result<void> reach_predecessor(start& s) {
    const std::string socket = s.config.socket;
    auto reached = keeper::predecessor::reach(socket + proto::upgrade_suffix, proto::version_text, s.options.reload);
    if (!reached) {
        return std::unexpected(reached.error());
    }
    if (reached->answer().what == keeper::upgrade_step::reloaded) {
        report_reload(keeper::text_in(reached->answer()));
        return {};
    }
    s.before = std::move(*reached);
    const auto& answer = s.before->answer();
    daemon::add_options(s.options, answer.options);
    if (s.path.empty()) {
        s.path = answer.config;
        if (auto r = load(s); !r) {
            return r;
        }
    }
    if (const auto why = daemon::why_no_upgrade(answer, socket, s.config); !why.empty()) {
        return base::fail(EINVAL, why);
    }
    s.registry = uint16_t(answer.registry);
    s.before->take_stdio();
    return {};
}

base::result<void> make_sockets(start& s) {
    auto& b = s.before;
    auto socket = b ? attach::control_socket::take_over(s.config, b->take_control(), b->take_stats(), b->take_upgrade())
                    : attach::control_socket::open(s.config);
    if (!socket) {
        return std::unexpected(socket.error());
    }
    s.socket.emplace(std::move(*socket));
    if (b) {
        s.metrics = b->take_metrics();
    }
    if (!s.metrics || base::local_name(s.metrics.get()) != s.config.metrics) {
        auto metrics = daemon::listen_for_metrics(s.config.metrics);
        if (!metrics) {
            return std::unexpected(metrics.error());
        }
        s.metrics = std::move(*metrics);
    }
    return give_up(s.config, *s.socket);
}

base::result<void> look_at_machine(start& s) {
    auto machine = daemon::machine::read();
    if (!machine) {
        return std::unexpected(machine.error());
    }
    auto limits = daemon::fit_limits(s.config, *machine);
    if (!limits) {
        return std::unexpected(limits.error());
    }
    s.machine = std::move(*machine);
    s.limits = std::move(*limits);
    return daemon::check_kernel();
}

int run(start& s) {
    keeper::voice voice;
    auto manager = keeper::supervisor::from_environment();
    if (s.before) {
        manager = s.before->manager();
    }
    if (auto r = look_at_machine(s); !r) {
        return complain(r.error().text, start_error);
    }
    if (auto r = make_sockets(s); !r) {
        return complain(r.error().text, start_error);
    }
    auto page = shm::create_published("vmsgr-stats", shm::stats_page::bytes(s.config.shards));
    if (!page) {
        return complain(page.error().text, start_error);
    }
    s.page = std::move(*page);
    auto keeper = become_keeper(s, std::move(manager), std::move(voice));
    if (!keeper) {
        return complain(keeper.error().text, start_error);
    }
    return keep(*keeper, s);
}

}  // namespace

int main(int argc, char** argv) {
    setvbuf(stdout, nullptr, _IOLBF, 0);  // Seastar's own assertions speak through it before they trap
    auto parsed = daemon::parse_options(argc, argv);
    if (!parsed.run) {
        return parsed.exit_code;
    }
    start s{.options = *parsed.run, .path = parsed.run->config};
    if (auto r = load(s); !r) {
        return complain(r.error().text, usage_error);
    }
    if ((s.options.upgrade || s.options.reload) && !s.options.check_config) {
        auto begun = daemon::begin_upgrade();
        if (!begun) {
            return begun.error();
        }
        report = std::move(*begun);
        if (auto r = reach_predecessor(s); !r) {
            return complain(r.error().text, start_error);
        }
        if (!s.before) {
            return 0;
        }
    }
    s.config.polling = s.options.polling.value_or(s.config.polling);
    s.config.seccomp = s.config.seccomp && !s.options.no_seccomp;
    if (s.options.check_config) {
        printf("%s: good, %u routes\n", s.path.empty() ? "defaults" : s.path.c_str(), s.config.routes.count);
        return 0;
    }
    return run(s);
}
