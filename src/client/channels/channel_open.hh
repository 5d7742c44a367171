// How channels come to be: connecting to a listener, by a local conduit or through the daemon; and the listener's
// half of it (channel_listener.hh). Any thread; waits, within the time that it is given.
#pragma once

#include <memory>
#include <string>

#include "base/error.hh"
#include "client/channels/channel.hh"
#include "client/memory.hh"
#include "client/session.hh"

namespace vmsgr::client {

struct open_options {
    channel_settings settings;
    int timeout_ms = 5000;  // until the other end has accepted; < 0: for ever
    std::string name = "libvmsgr";  // shown as the connection's route
};

// Nothing where the settings fit rings of this size.
base::error unfit(const open_options& o, uint64_t ring_bytes);
// The session is attached. Returns once the other end has accepted and said hello.
base::result<std::unique_ptr<channel>> connect_channel(const std::shared_ptr<session>& s, const std::string& daemon,
                                                       const base::address& to, const open_options& o);
// A channel on memory and doorbell that came or were made; it has said hello.
struct new_end {
    held_memory memory;
    base::unique_fd bell, port;
    unsigned which = 0;
    bool local = false;
    base::address self, peer;
    bool accepted = false;  // taken from a listener
    std::string_view name;  // shown as the route
};
base::result<std::unique_ptr<channel>> make_channel(new_end end, const std::shared_ptr<session>& s,
                                                    const channel_settings& settings);

}  // namespace vmsgr::client
