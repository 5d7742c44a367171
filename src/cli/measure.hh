// Both sides of `vmsgr ping` and `vmsgr perf`: a server that sends back or counts what comes, and a client that
// measures. They agree by messages of their own on the channel; all else is zeros.
//
// serve() runs on a thread of its own for each channel; a client belongs to one thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.hh"
#include "vmsgr/vmsgr.hh"

namespace vmsgr::cli {

// Until the other end has finished.
void serve_measurements(vmsgr::channel c);

struct latencies {
    double min_us = 0, p50_us = 0, p99_us = 0, max_us = 0;
    uint64_t count = 0;
};
latencies summed_up(std::vector<double> us);  // in any order

struct flow_rate {
    double messages_per_s = 0, bytes_per_s = 0;
};

class measuring_client {
    vmsgr::channel _c;
    std::vector<std::byte> _zeros, _came;

public:
    explicit measuring_client(vmsgr::channel c);
    vmsgr::channel& channel() noexcept { return _c; }

    // One there and back, in us.
    base::result<double> round_trip(size_t bytes);
    base::result<latencies> round_trips(size_t bytes, double seconds);
    // One way. batch: so many messages with VMSGR_MORE before one without; 1: none.
    base::result<flow_rate> flow(size_t bytes, double seconds, unsigned batch);

private:
    base::result<uint64_t> ask(uint32_t mode);
    template <typename E>
    std::unexpected<base::error> failed(const E& e) const;
};

}  // namespace vmsgr::cli
