// Listens for channels. The kernel's listening socket goes to the daemon, which gives a door for it (proto/dial.hh):
// programs of this host dial it, and the daemon with what it has accepted. While the daemon is away the port stays
// open; when it is back, the listener goes to it again with one of the next calls. Where a route of the daemon's
// denies the address there is no listener, and accept() says so if the route came with another daemon.
//
// What connects has to say hello first; until then it waits in a list, beside the others, so a stranger that says
// nothing holds nobody up. The time for it is long, as a cut of the network may lie in it; where the list is full,
// who has waited longest goes.
//
// One thread at a time.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include "client/channels/channel_open.hh"
#include "client/dialled.hh"

namespace vmsgr::client {

inline constexpr size_t unknown_max = 64;  // that have not said hello
inline constexpr int hello_timeout_ms = 30'000;
inline constexpr int reattach_period_ms = 200;

class channel_listener {
    struct stranger {
        std::unique_ptr<channel> end;
        int64_t until_ms;
    };
    std::shared_ptr<session> _session;
    open_options _options;
    base::unique_fd _socket, _door, _ready, _timer;
    daemon_listener _listener;
    base::address _address;
    std::deque<stranger> _strangers;
    uint64_t _accepted = 0, _refused = 0;
    std::string _last_refusal;

public:
    channel_listener(std::shared_ptr<session> s, open_options o) : _session(std::move(s)), _options(std::move(o)) {}
    channel_listener(channel_listener&& o) noexcept;
    ~channel_listener();

    // Binds, listens, and goes to the daemon. Once.
    base::result<bool> start(const base::address& at, int backlog);
    // The next channel. EAGAIN: none now (timeout_ms 0); ETIMEDOUT, EINTR; EACCES: denied, from now on.
    base::result<std::unique_ptr<channel>> accept(int timeout_ms);

    // Readable when accept() has something to do.
    int fd() const noexcept { return _ready.get(); }
    const base::address& address() const noexcept { return _address; }
    bool by_daemon() const noexcept { return bool(_door); }
    uint64_t accepted() const noexcept { return _accepted; }
    uint64_t refused() const noexcept { return _refused; }  // said no hello, or none that we understand
    const std::string& last_refusal() const noexcept { return _last_refusal; }

private:
    int attach();
    void watch(int fd, bool on) noexcept;
    void rest(bool on) noexcept;
    void refuse(std::string why);
    base::result<bool> take_connections();
    base::result<bool> take_one();
    std::unique_ptr<channel> first_greeted();
    base::error nothing_came(int errnum) const;
    int wait_ms(int left_ms) const noexcept;
};

}  // namespace vmsgr::client
