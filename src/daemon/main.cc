// vmsgrd: reads its configuration, checks the machine, makes the control socket, and only then starts Seastar; so
// whatever is wrong is one line on stderr and nothing is half started.
#include <stdio.h>

#include <seastar/core/thread.hh>

#include "daemon/door_keeper.hh"
#include "daemon/limits.hh"
#include "daemon/options.hh"
#include "daemon/reactor_options.hh"
#include "daemon/service.hh"

namespace {

using namespace vmsgr;

constexpr int start_error = 1;
constexpr int usage_error = 2;

int complain(const std::string& text, int exit_code) {
    fprintf(stderr, "vmsgrd: %s\n", text.c_str());
    return exit_code;
}

int serve(const conf::daemon_config& config, attach::control_socket& socket, uint64_t descriptors) {
    seastar::app_template app(daemon::reactor_options(config));
    char name[] = "vmsgrd";
    char* argv[] = {name, nullptr};
    return app.run(1, argv, [&] {
        return seastar::async([&] {
            daemon::set_log_levels(config);
            try {
                daemon::service(config, socket, descriptors).run();
                return 0;
            } catch (const std::exception& e) {
                return complain(e.what(), start_error);
            }
        });
    });
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
    if (parsed.run->polling) {
        config.polling = *parsed.run->polling;
    }
    if (parsed.run->check_config) {
        printf("%s: good, %u routes\n", parsed.run->config.empty() ? "defaults" : parsed.run->config.c_str(),
               config.routes.count);
        return 0;
    }
    auto descriptors = daemon::raise_descriptor_limit();
    if (!descriptors) {
        return complain(descriptors.error().text, start_error);
    }
    if (auto machine = daemon::check_machine(config); !machine) {
        return complain(machine.error().text, start_error);
    }
    auto socket = attach::control_socket::open(config);
    if (!socket) {
        return complain(socket.error().text, start_error);
    }
    auto keeper = daemon::start_door_keeper(socket->doors());
    if (!keeper) {
        return complain(keeper.error().text, start_error);
    }
    return serve(config, *socket, *descriptors);
}
