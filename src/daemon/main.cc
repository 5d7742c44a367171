// vmsgrd: reads its configuration, checks the machine, makes the control socket, and only then starts Seastar; so
// whatever is wrong is one line on stderr and nothing is half started.
#include <stdio.h>
#include <unistd.h>

#include <array>

#include <seastar/core/thread.hh>

#include "daemon/door_keeper.hh"
#include "daemon/journal.hh"
#include "daemon/limits.hh"
#include "daemon/options.hh"
#include "daemon/privileges.hh"
#include "daemon/reactor_options.hh"
#include "daemon/service.hh"
#include "daemon/stats_server.hh"

namespace {

using namespace vmsgr;

constexpr int start_error = 1;
constexpr int usage_error = 2;

int complain(const std::string& text, int exit_code) {
    fprintf(stderr, "vmsgrd: %s\n", text.c_str());
    return exit_code;
}

int serve(const conf::daemon_config& config, const std::string& path, attach::control_socket& socket,
          const daemon::machine& machine, const daemon::fitted_limits& limits, daemon::signals& signals,
          daemon::supervisor& manager, shm::stats_page& page) {
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
                daemon::service(config, path, socket, machine, limits, manager, page).run(signals, app.alien());
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
base::result<std::array<base::unique_fd, 2>> start_helpers(attach::control_socket& socket, shm::new_page& page,
                                                           base::unique_fd metrics) {
    auto keeper = daemon::start_door_keeper(socket.doors());
    if (!keeper) {
        return std::unexpected(keeper.error());
    }
    auto stats = daemon::start_stats_server(page, {std::move(socket.stats()), std::move(metrics)});
    if (!stats) {
        return std::unexpected(stats.error());
    }
    return std::array{std::move(*keeper), std::move(*stats)};
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
    auto manager = daemon::supervisor::from_environment();
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
    const auto helpers = start_helpers(*socket, *page, std::move(*metrics));
    if (!helpers) {
        return complain(helpers.error().text, start_error);
    }
    auto signals = daemon::signals::start(daemon::stop_limit(config));
    if (!signals) {
        return complain(signals.error().text, start_error);
    }
    return serve(config, parsed.run->config, *socket, *machine, *limits, **signals, manager,
                 *reinterpret_cast<shm::stats_page*>(page->memory.data()));
}
