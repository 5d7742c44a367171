// What two keepers say to each other while the second takes over from the first (docs/KEEPER.md, "Upgrade"), and what a
// keeper gives to a worker that was not born with it: one struct a packet, descriptors beside it.
//
//   new               old
//   hello        -->        versions and sizes; [the end of a pipe that hangs up when the new one and its worker go]
//                <--  reloaded: both are the same file, and the hello said that the configuration is enough then
//                <--  answer or refusal: [ledger, control, upgrade, 0, 1, 2, and what else it has]
//   standby      -->        its worker runs and has taken nothing
//                <--  entries: [descriptors], again and again; all
//   ready        -->        its worker carries all of it
//                <--  yours: from here on the new one alone is the daemon's keeper
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/error.hh"
#include "base/unique_fd.hh"
#include "keeper/custody.hh"

namespace vmsgr::keeper {

inline constexpr uint64_t upgrade_magic = 0x64617267'70557356;  // "VsUpgrad"
inline constexpr uint32_t upgrade_protocol = 1;

enum class upgrade_step : uint32_t { hello = 1, answer, refusal, standby, entries, all, ready, yours, reloaded };

inline constexpr size_t entries_of_message = 80;  // with three descriptors each, as many as the kernel takes at once
inline constexpr size_t descriptors_of_message = entries_of_message * kept_fds;

struct upgrade_message {
    // These four in any protocol.
    uint64_t magic = upgrade_magic;
    uint32_t protocol = upgrade_protocol;
    upgrade_step what{};
    char text[480] = {};  // refusal: why. hello, answer: the version of vmsgrd
    // hello, answer
    uint32_t ledger_version = 0, entry_bytes = 0;
    uint32_t entries = 0;  // of the ledger
    uint32_t held = 0;  // descriptors
    uint32_t shards = 0;
    uint32_t options = 0;  // answer: the old one's command line, as daemon/upgrade.hh reads it
    uint32_t if_other = 0;  // hello: only if the old one is of another file
    uint32_t drains_since_s = 0;  // all: see board
    uint64_t file[2] = {};  // hello: device and inode of the program
    uint32_t has_stats = 0, has_metrics = 0;
    uint32_t registry = 0;  // answer: the turn of the new one's list of listeners
    int32_t pid = 0;
    int32_t watchdog_us = 0;  // of the service manager
    char config[256] = {};  // of its file, absolute; empty: none
    char manager[108] = {};  // where the service manager listens; empty: there is none
    // entries, all
    uint32_t count = 0;  // all: of entries in all messages
    uint32_t stop = 0;  // yours: the signal that has come meanwhile
    uint64_t sessions = 0;  // all: numbers given
    uint64_t restarts = 0;  // all: of workers
    int64_t stopped_ns = 0;  // all: when the last worker was
    struct {
        uint32_t entry, descriptors;
    } part[entries_of_message] = {};
};

static_assert(sizeof(upgrade_message) == 1600);

std::string_view text_in(const upgrade_message& m) noexcept;

using descriptors = std::vector<base::unique_fd>;

// Device and inode of this program's file; zeros where they are not known.
void own_file(uint64_t (&out)[2]) noexcept;

// 0 or an errno. flags: MSG_DONTWAIT or 0.
int send_upgrade(int to, const upgrade_message& m, std::span<const int> fds, int flags) noexcept;
// A whole message of this protocol, or an errno; ECONNRESET: the other end is gone. EPROTO: it is none, or descriptors
// of it were lost. May throw std::bad_alloc.
int receive_upgrade(int from, upgrade_message& m, descriptors& fds, int flags);

// A refusal that every version can read.
void refuse_upgrade(int to, std::string_view why) noexcept;

// What was held, in messages, from entry `next` on: false when `m` has got nothing, as there is no more.
bool fill_entries(std::span<const kept> held, size_t& next, upgrade_message& m, std::vector<int>& fds);
// Puts what such a message has brought into its places. False: it is not what it should be.
bool take_entries(const upgrade_message& m, descriptors& fds, std::span<kept> places);

// In a worker: waits for all that its keeper gives.
base::result<std::vector<kept>> receive_all(int keeper, size_t entries);

}  // namespace vmsgr::keeper
