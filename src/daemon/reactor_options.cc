#include "daemon/reactor_options.hh"

#include <seastar/core/resource.hh>
#include <seastar/util/log-cli.hh>

namespace vmsgr::daemon {

seastar::app_template::seastar_options reactor_options(const conf::daemon_config& c, bool log_times) {
    seastar::app_template::seastar_options o;
    o.name = "vmsgrd";
    o.auto_handle_sigint_sigterm = false;
    auto& r = o.reactor_opts;
    r.reactor_backend.select_candidate(std::string(conf::to_text(c.backend)));
    if (c.cpuset.empty()) {
        r.overprovisioned.set_value();
        o.smp_opts.thread_affinity.set_value(false);
    } else {
        o.smp_opts.cpuset.set_value(seastar::resource::parse_cpuset(c.cpuset).value());
    }
    r.idle_poll_time_us.set_value(c.idle_poll_us);
    // On epoll a thread beside the reactor wakes for every quota that a busy reactor uses up. Fibers here yield by
    // bytes moved, so a longer one costs no fairness.
    r.task_quota_ms.set_value(2.0);
    if (c.polling == conf::poll_mode::busy) {
        r.poll_mode.set_value();
    }
    o.smp_opts.smp.set_value(c.shards);
    o.smp_opts.memory.set_value(std::to_string(c.memory_bytes));
    o.smp_opts.reserve_memory.set_value("0");  // limits.cc has looked at what there is
    o.log_opts.default_log_level.set_value(seastar::log_level::warn);
    o.log_opts.log_with_color.set_value(false);
    if (!log_times) {
        o.log_opts.logger_stdout_timestamps.set_value(seastar::logger_timestamp_style::none);
    }
    return o;
}

void set_log_levels(const conf::daemon_config& c) {
    auto level = seastar::log_cli::parse_log_level(c.log_level);
    auto& all = seastar::global_logger_registry();
    for (auto& name : all.get_all_logger_names()) {
        if (name.starts_with("vmsgr")) {
            all.set_logger_level(name, level);
        }
    }
}

}  // namespace vmsgr::daemon
