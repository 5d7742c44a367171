// A connection that becomes its program's own kernel socket again, so that the daemon can leave: what of that is the
// connection's own state. conn/vm_conn_back.cc has the rest, client/streams/going_back.cc the program's half.
#pragma once

#include <cstdint>
#include <string_view>

#include <seastar/core/lowres_clock.hh>

namespace vmsgr::conn {

// Why a connection is still the daemon's although all are to go.
enum class stays : uint8_t {
    no,         // it is the kernel's, but for a process that has it as well or has not let go yet
    trunk,      // the first three for good
    plain,
    library,
    ending,
    connecting,
    not_accepted,
    not_read,
    not_sent,
    not_asked,
};
std::string_view to_word(stays) noexcept;
std::string_view to_text(stays) noexcept;
// As long as the connection lasts.
constexpr bool is_for_good(stays s) noexcept { return s == stays::trunk || s == stays::plain || s == stays::library; }

struct going_back {
    using clock = seastar::lowres_clock;
    bool asked = false;    // the program may ask
    bool gone = false;     // nothing is carried any more
    bool paused_for_unread = false, paused_for_unsent = false;  // since it was asked last
    clock::time_point paused_until{};  // the far side is not read; none: it is
    clock::time_point next{};
    unsigned tries = 0;

    bool stops_reading() const noexcept { return gone || paused_until != clock::time_point{}; }
};

}  // namespace vmsgr::conn
