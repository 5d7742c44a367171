// Bytes that a program has sent and TCP would hold back: with TCP_CORK or MSG_MORE, what does not fill a segment waits
// for more, for the end of the cork, and for 200 ms at most. Through the daemon its kernel socket does that. Between
// two programs the bytes lie in the ring beyond its head, where the reader does not see them (shm/ring.hh), and a
// thread of the library's own, that of late_tokens.hh, shows those whose time has passed. If the sender is killed, the
// reader takes them.
//
// Only where no other process has the sending end, and where such a thread may be started: otherwise nothing is held
// back.
#pragma once

#include <cstdint>

namespace vmsgr::client {

class stream;

inline constexpr int64_t held_back_ns = 200'000'000;
// What loopback's TCP_MAXSEG is.
inline constexpr uint64_t segment_bytes = 65483;

// Under the send lock of s, which has number fd. False: too many are, and the bytes are to be shown now.
bool list_held_back(int fd, const stream& s) noexcept;
// Of the thread that looks after them. True: some were listed.
bool show_late_bytes() noexcept;
bool is_any_held_back() noexcept;
// All of them: before a fork, and before this program is replaced.
void show_all_held_back() noexcept;
// In the child of a fork.
void forget_held_back() noexcept;

}  // namespace vmsgr::client
