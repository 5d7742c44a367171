// A small process beside the daemon that reads its page of counters, and nothing else of its memory: it answers `vmsgr
// status` while shards are stopped, and Prometheus' scrapes. It ends with the daemon. What a client sends cannot reach
// the daemon: the page is mapped for reading, and sealed against any other.
//
// On the status socket a client says "health\n" or "status\n" and reads a JSON object up to the end of file, of what
// it may see (attach/access.hh); "page\n" gets the address of the status page and a key to it (daemon/page_keys.hh). On
// the metrics address it says HTTP. Clients are bounded, in number, bytes and time.
#pragma once

#include "base/address.hh"
#include "base/error.hh"
#include "base/unique_fd.hh"
#include "shm/segment.hh"

namespace vmsgr::daemon {

struct stats_sockets {
    base::unique_fd status;  // listens
    base::unique_fd metrics;  // listens, or is none
};

// An address with family 0 gives none.
base::result<base::unique_fd> listen_for_metrics(const base::address& at);

// Before Seastar starts, from a process with one thread. page: the daemon's own. The daemon holds what is
// returned as long as it lives. waits: it serves nobody before the first byte there.
base::result<base::unique_fd> start_stats_server(shm::new_page& page, stats_sockets sockets, bool waits);

}  // namespace vmsgr::daemon
