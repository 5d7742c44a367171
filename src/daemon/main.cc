// vmsgrd: reads its configuration, checks the machine, makes the control socket, becomes the keeper, and only then
// starts the worker with Seastar; so whatever is wrong is one line on stderr and nothing is half started.
#include <stdio.h>
#include <unistd.h>

#include <memory>
#include <system_error>
#include <vector>

#include <seastar/core/thread.hh>

#include "daemon/door_keeper.hh"
#include "daemon/journal.hh"
#include "daemon/limits.hh"
#include "daemon/options.hh"
#include "daemon/privileges.hh"
#include "daemon/reactor_options.hh"
#include "daemon/service.hh"
#include "daemon/stats_server.hh"
#include "keeper/keeper.hh"
#include "local/registry.hh"

namespace {

using namespace vmsgr;

constexpr int start_error = 1;
constexpr int usage_error = 2;

int complain(const std::string& text, int exit_code) {
    fprintf(stderr, "vmsgrd: %s\n", text.c_str());
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

// The processes beside the daemon, which end with what is returned.
base::result<std::vector<base::unique_fd>> start_helpers(attach::control_socket& socket, shm::new_page& page,
                                                         base::unique_fd metrics) {
    auto doors = daemon::start_door_keeper(socket.doors());
    if (!doors) {
        return std::unexpected(doors.error());
    }
    auto stats = daemon::start_stats_server(page, {std::move(socket.stats()), std::move(metrics)});
    if (!stats) {
        return std::unexpected(stats.error());
    }
    std::vector<base::unique_fd> all;
    all.push_back(std::move(*doors));
    all.push_back(std::move(*stats));
    return all;
}

// What all workers map, one after the other; after the helpers have started, which have nothing of it.
base::result<std::unique_ptr<local::registry>> make_registry(const conf::daemon_config& config) {
    try {
        return std::make_unique<local::registry>(config.networks == conf::namespaces::shared);
    } catch (const std::system_error& e) {
        return base::fail(e.code().value(), e.what());
    }
}

// Of the ledger: shard 0 has all sessions in its share, and a listener has two lifelines at most.
size_t entries_for(const conn::amounts& a, size_t shards) {
    return a.connections + 3 * a.listeners + shards * a.sessions;
}

// Page, socket and what comes with them outlive it.
base::result<keeper::keeper> become_keeper(const conf::daemon_config& config, size_t entries,
                                           attach::control_socket& socket, shm::new_page& page, base::unique_fd metrics,
                                           keeper::supervisor manager, keeper::voice voice) {
    auto helpers = start_helpers(socket, page, std::move(metrics));
    if (!helpers) {
        return std::unexpected(helpers.error());
    }
    return keeper::keeper::make({.shards = config.shards,
                                 .entries = entries,
                                 .watchdog_ms = config.watchdog_ms,
                                 .control = socket.fd(),
                                 .stopping = [&socket] { socket.close(); }},
                                std::move(manager), std::move(voice),
                                *reinterpret_cast<shm::stats_page*>(page.memory.data()), std::move(*helpers));
}

// In the keeper until vmsgrd ends, and in each worker until that does.
int keep(keeper::keeper& k, const conf::daemon_config& config, const std::string& path, attach::control_socket& socket,
         const daemon::machine& machine, const daemon::fitted_limits& limits, shm::stats_page& page) {
    auto listeners = make_registry(config);
    if (!listeners) {
        return complain(listeners.error().text, start_error);
    }
    if (auto seat = k.run()) {
        return serve(config, path, socket, machine, limits, std::move(*seat), **listeners, page);
    }
    return k.exit_code();
}

}  // namespace

int main(int argc, char** argv) {
    setvbuf(stdout, nullptr, _IOLBF, 0);  // Seastar's own assertions speak through it before they trap
    auto parsed = daemon::parse_options(argc, argv);
    if (!parsed.run) {
        return parsed.exit_code;
    }
    conf::daemon_config config;
    if (!parsed.run->config.empty()) {
        auto loaded = conf::load_daemon_config(parsed.run->config);
        if (!loaded) {
            return complain(loaded.error().text, usage_error);
        }
        config = std::move(*loaded);
    }
    config.polling = parsed.run->polling.value_or(config.polling);
    config.seccomp = config.seccomp && !parsed.run->no_seccomp;
    if (parsed.run->check_config) {
        printf("%s: good, %u routes\n", parsed.run->config.empty() ? "defaults" : parsed.run->config.c_str(),
               config.routes.count);
        return 0;
    }
    keeper::voice voice;
    auto manager = keeper::supervisor::from_environment();
    auto machine = daemon::machine::read();
    if (!machine) {
        return complain(machine.error().text, start_error);
    }
    auto limits = daemon::fit_limits(config, *machine);
    if (!limits) {
        return complain(limits.error().text, start_error);
    }
    if (auto kernel = daemon::check_kernel(); !kernel) {
        return complain(kernel.error().text, start_error);
    }
    auto socket = attach::control_socket::open(config);
    if (!socket) {
        return complain(socket.error().text, start_error);
    }
    auto metrics = daemon::listen_for_metrics(config.metrics);
    if (!metrics) {
        return complain(metrics.error().text, start_error);
    }
    if (auto dropped = give_up(config, *socket); !dropped) {
        return complain(dropped.error().text, start_error);
    }
    auto page = shm::create_published("vmsgr-stats", shm::stats_page::bytes(config.shards));
    if (!page) {
        return complain(page.error().text, start_error);
    }
    auto& shown = *reinterpret_cast<shm::stats_page*>(page->memory.data());
    auto keeper = become_keeper(config, entries_for(limits->all, config.shards), *socket, *page, std::move(*metrics),
                                std::move(manager), std::move(voice));
    if (!keeper) {
        return complain(keeper.error().text, start_error);
    }
    return keep(*keeper, config, parsed.run->config, *socket, *machine, *limits, shown);
}
