// An attached program as its connections and listeners see it, on whatever shard they live: who it is, its
// segment's `connected` list, and how many connections it has. Shared by std::shared_ptr, because connections
// outlive the session that asked for them. Everything is constant or atomic.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "conn/users.hh"
#include "shm/segment.hh"

namespace vmsgr::conn {

enum class conn_role : uint8_t { client = 0, server = 1 };

class program {
    shm::mapping _segment;
    // The daemon's own word on which slots of `connected` are taken; the segment is only written.
    std::array<std::atomic<uint64_t>, shm::connected_slots / 64> _taken{};
    std::atomic<uint32_t> _slot_hint{0};
    std::atomic<int64_t> _gone_ms{0};

public:
    const uint64_t session_id;
    const pid_t pid;
    const user_ptr owner;
    const std::string name;
    const uint64_t features;  // proto::feature, that both sides have
    usage connections;

    program(uint64_t id, pid_t pid_, user_ptr owner_, std::string name_, uint64_t features_, uint32_t connections_max,
            shm::mapping segment);
    uid_t uid() const noexcept { return owner->uid; }

    // Its session has ended; and that long ago that whoever inherited its connections has asked for them.
    void end() noexcept;
    bool ended() const noexcept { return _gone_ms.load(std::memory_order_relaxed) != 0; }
    bool ended_long_ago() const noexcept;

    shm::session_segment& segment() const noexcept { return *reinterpret_cast<shm::session_segment*>(_segment.data()); }

    // shm::no_slot when all are taken.
    uint32_t show(uint64_t id, conn_role role, unsigned shard, int fd) noexcept;
    // The slot that an earlier worker has taken for it, or a new one where that is of something else.
    uint32_t show_again(uint32_t slot, uint64_t id, conn_role role, unsigned shard, int fd) noexcept;
    void show_addresses(uint32_t slot, const base::address& local, const base::address& peer) noexcept;
    // The number that the program wrote for people; -1 for none.
    int shown_fd(uint32_t slot) const noexcept;
    void hide(uint32_t slot) noexcept;

private:
    uint32_t take_slot() noexcept;
};
// Now, as Unix time.
double unix_time_s();

using program_ptr = std::shared_ptr<program>;

}  // namespace vmsgr::conn
