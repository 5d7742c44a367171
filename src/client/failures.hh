// What libvmsgr says when something cannot be opened: one line with the cause and the next step. Any thread.
#pragma once

#include "base/address.hh"
#include "base/error.hh"
#include "client/channels/channel.hh"
#include "client/session.hh"
#include "client/streams/stream.hh"

namespace vmsgr::client {

// Why there is no session with the daemon at `path`.
base::error unattached(const char* path, const proto::attach_failure& f);
// Waits until the daemon has taken a connected socket, or found a way: 0, or the errno with which it does not; < 0: for
// ever. A signal does not end the wait.
int await_verdict(stream& s, int bell, int timeout_ms = request_timeout_ms) noexcept;
base::error untaken(int e, const base::address& peer);
// How a channel came to its end. Empty while it is open.
std::string how_it_ended(const channel& c);

}  // namespace vmsgr::client
