// `vmsgrd --upgrade`: the process that somebody has started waits; its child becomes the keeper that takes over from
// the one that runs (docs/KEEPER.md, "Upgrade"). Before anything else is started.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>

#include "base/unique_fd.hh"
#include "daemon/options.hh"
#include "keeper/upgrade.hh"

namespace vmsgr::daemon {

// Where the child says how it went, once; its parent ends then.
class upgrade_report {
    base::unique_fd _to;

public:
    upgrade_report() = default;
    explicit upgrade_report(base::unique_fd to) noexcept : _to(std::move(to)) {}
    explicit operator bool() const noexcept { return bool(_to); }
    void succeeded(std::string_view text) noexcept { say('+', text); }
    void failed(std::string_view text) noexcept { say('-', text); }
    // In a process that is not to report.
    void leave() noexcept { _to.reset(); }

private:
    void say(char how, std::string_view text) noexcept;
};

// In the child: where it reports. In the parent, when it has: the exit code.
std::expected<upgrade_report, int> begin_upgrade();

// The command line of a daemon for the next one.
uint32_t options_to_bits(const options& o) noexcept;
// What was not given here is as it was there.
void add_options(options& to, uint32_t bits) noexcept;

// What changes and cannot: why this configuration cannot take over from the daemon that has given this answer. Empty:
// it can.
std::string why_no_upgrade(const keeper::upgrade_message& answer, const std::string& reached,
                           const conf::daemon_config& c);

}  // namespace vmsgr::daemon
