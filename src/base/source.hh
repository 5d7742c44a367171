// What the kernel's routing says of an address: from which of this host's addresses it reaches a peer, and whether an
// address is this host's own.
#pragma once

#include "base/address.hh"

namespace vmsgr::base {

// In the caller's network namespace; none where there is no way. Port 0. Any thread; sends nothing.
address source_towards(const address& peer) noexcept;

// One of the host's addresses, in the caller's network namespace, loopback and secondary ones included; no wildcard,
// broadcast or multicast address, and none that could merely be bound. False where the kernel does not answer (it is
// asked over netlink). Any thread.
bool is_own_address(const address& a) noexcept;

// Bytes for it do not leave this host: its own, loopback, or the wildcard, which the kernel takes for loopback.
bool is_this_host(const address& a) noexcept;

}  // namespace vmsgr::base
