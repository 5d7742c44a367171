// vmsgrd: reads its configuration, checks the machine, makes the control socket, becomes the keeper, and only then
// starts the worker with Seastar; so whatever is wrong is one line on stderr and nothing is half started.
#include <stdio.h>
#include <unistd.h>

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
#include "local/doors.hh"

namespace {

using namespace vmsgr;

constexpr int start_error = 1;
constexpr int usage_error = 2;

int complain(const std::string& text, int exit_code) {
    fprintf(stderr, "vmsgrd: %s\n", text.c_str());
    return exit_code;
}

int serve(const conf::daemon_config& config, const std::string& path, attach::control_socket& socket,
          const daemon::machine& machine, const daemon::fitted_limits& limits, keeper::seat at, shm::stats_page& page) {
    auto signals = daemon::signals::start(std::move(at.orders), daemon::stop_limit(config));
    if (!signals) {
        return complain(signals.error().text, start_error);
    }
    socket.leave_files();
    if (!at.first) {
        local::knock_at_all(socket.doors().c_str(), true);  // of the one before
    }
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
                daemon::service(config, path, socket, machine, limits, at, page).run(**signals, app.alien());
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

// Page, socket and what comes with them outlive it.
base::result<keeper::keeper> become_keeper(const conf::daemon_config& config, attach::control_socket& socket,
                                           shm::new_page& page, base::unique_fd metrics, keeper::supervisor manager,
                                           keeper::voice voice) {
    auto helpers = start_helpers(socket, page, std::move(metrics));
    if (!helpers) {
        return std::unexpected(helpers.error());
    }
    return keeper::keeper::make({.shards = config.shards,
                                 .watchdog_ms = config.watchdog_ms,
                                 .control = socket.fd(),
                                 .stopping = [&socket] { socket.close(); }},
                                std::move(manager), std::move(voice),
                                *reinterpret_cast<shm::stats_page*>(page.memory.data()), std::move(*helpers));
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
    auto keeper = become_keeper(config, *socket, *page, std::move(*metrics), std::move(manager), std::move(voice));
    if (!keeper) {
        return complain(keeper.error().text, start_error);
    }
    if (auto seat = keeper->run()) {
        return serve(config, parsed.run->config, *socket, *machine, *limits, std::move(*seat), shown);
    }
    return keeper->exit_code();
}
