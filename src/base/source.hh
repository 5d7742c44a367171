// From which of this host's addresses the kernel would reach a peer.
#pragma once

#include "base/address.hh"

namespace vmsgr::base {

// In the caller's network namespace; none where there is no way. Port 0. Any thread; sends nothing.
address source_towards(const address& peer) noexcept;

}  // namespace vmsgr::base
