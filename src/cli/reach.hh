// What the commands that use channels share (ping, perf, send, recv): an address in words, a session, and what is said
// when there is none. Single thread.
#pragma once

#include <cstddef>
#include <expected>
#include <span>
#include <string>

#include "cli/cli.hh"
#include "vmsgr/vmsgr.hh"

namespace vmsgr::cli {

// "ADDR:PORT", "[ADDR]:PORT" or ":PORT" (127.0.0.1). Empty length: what is wrong has been said.
base::result<vmsgr::address> parse_endpoint(const std::string& text, bool port_zero);
std::string endpoint_text(const vmsgr::address& a);
inline constexpr const char* endpoint_help = "ADDR:PORT, [ADDR]:PORT or :PORT of this machine";

// The error is said, and its exit code is what is returned in place of a session.
std::expected<vmsgr::session, int> open_session(const options& o);

// What a message of a fixed shape is sent as.
template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
    return std::as_bytes(std::span(&value, 1));
}

// Why a channel has ended, or what an errno says.
std::string reason(const vmsgr::channel& c, std::error_code e);

}  // namespace vmsgr::cli
