// The log as entries of systemd's journal, where stderr is connected to that: a datagram for each line of Seastar's
// log, with its priority, and its shard and part of the daemon as fields (VMSGR_SHARD, VMSGR_PART). Not by stderr
// itself, which would hold up a reactor whose journal does not read: what the journal does not take at once is dropped,
// and counted in the next entry that it takes (VMSGR_DROPPED).
//
// Any thread.
#pragma once

#include <sys/un.h>

#include <atomic>
#include <cstdint>
#include <ostream>
#include <streambuf>
#include <string>
#include <string_view>

#include "base/unique_fd.hh"

namespace vmsgr::daemon {

// "INFO  [shard 0:main] vmsgr.trunk - text", as Seastar writes it without a time.
struct log_line {
    int priority = 6;  // syslog's
    std::string_view shard, part, text;
};
log_line read_log_line(std::string_view line) noexcept;

// In the journal's own protocol.
std::string journal_entry(const log_line& line, uint64_t dropped);

class journal : private std::streambuf {
    base::unique_fd _socket;
    std::atomic<uint64_t> _dropped{0};
    std::ostream _out{this};

    std::streamsize xsputn(const char* text, std::streamsize bytes) override;
    int overflow(int c) override { return c; }  // Seastar writes whole lines

public:
    // Whether $JOURNAL_STREAM names what stderr is.
    static bool wanted();
    explicit journal(const char* socket = "/run/systemd/journal/socket");

    bool connected() const noexcept { return bool(_socket); }
    std::ostream& out() noexcept { return _out; }
};

}  // namespace vmsgr::daemon
