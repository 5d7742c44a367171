// What vmsgrd tells the service manager that has started it: sd_notify(3)'s protocol, text in one datagram. Nothing is
// told where $NOTIFY_SOCKET is not set.
//
// libsystemd is not used for it: its calls wait as long as the manager does not read, which a reactor must not, and it
// would be one more library in a process that holds the keys of trunks. The protocol is documented as stable.
//
// The keeper has the one of the environment, as the manager listens to the first process alone; a worker's speaks
// through its keeper. Made on the main thread, before rights are given up; a worker's is used from shard 0 alone.
#pragma once

#include <sys/types.h>
#include <sys/un.h>

#include <chrono>
#include <string>
#include <string_view>

#include "base/unique_fd.hh"

namespace vmsgr::keeper {

// What a worker tells its keeper, which passes everything else on.
inline constexpr std::string_view word_stands_by = "vmsgr: stands by", word_handed_over = "vmsgr: has handed over";

// The address of a unix socket as systemd writes it: a path, or '@' and an abstract name. 0: it is none.
socklen_t unix_address(std::string_view text, sockaddr_un& out) noexcept;

class supervisor {
    base::unique_fd _socket;
    std::string _address;
    sockaddr_un _manager{};
    socklen_t _manager_bytes = 0;
    std::chrono::microseconds _watchdog{0};

    bool say(std::string_view text, int flags) noexcept;

public:
    // Of $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID, which it takes out of the environment.
    static supervisor from_environment();
    // The one that an earlier keeper knew (address()).
    static supervisor at(std::string_view address, std::chrono::microseconds watchdog);
    // keeper: a socket whose other end passes on what comes.
    static supervisor through(base::unique_fd keeper, std::chrono::microseconds watchdog);

    // Each waits for the manager for 100 ms at most; false where that did not take it.
    bool ready(std::string_view status);
    bool reloading();  // ready() follows
    bool stopping() noexcept;
    // The service's main process is another one from now on.
    bool is_now(pid_t main) noexcept;
    // For the keeper alone: what an upgrade asks of a worker (keeper/upgrade.hh) is done.
    bool stands_by() noexcept;
    bool has_handed_over() noexcept;
    // What another process has said. Never waits; false: not taken.
    bool pass_on(std::string_view text) noexcept;
    // Never waits. One that is lost is followed by the next.
    void alive() noexcept;

    // Where the manager listens, as at() takes it; empty: there is none.
    std::string_view address() const noexcept { return _address; }
    // How often alive() must be said at least; 0: nobody listens for it.
    std::chrono::microseconds watchdog() const noexcept { return _watchdog; }
};

}  // namespace vmsgr::keeper
