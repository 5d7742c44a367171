// The arenas of a shard (shm/arena.hh): those that programs send along with their connections, and those made here
// towards a listener, for what the daemon accepts. A memory_slot is a connection's place in one of them.
//
// One shard. A slot is given back on the shard where it was taken.
#pragma once

#include <list>
#include <memory>
#include <vector>

#include "base/error.hh"
#include "base/file_id.hh"
#include "base/unique_fd.hh"
#include "conn/program.hh"
#include "shm/arena.hh"

namespace vmsgr::conn {

struct arena_file {
    shm::made_arena arena;   // the account is used where it was made here
    base::unique_fd fd;      // made here: goes with each connection
    program_ptr owner;
    lease fds, map;
    bool made = false;
    uint64_t towards = 0;    // made: the listener
    base::file_id file;      // joined: which one it is
};

// The daemon's end of one connection. Its end says in the memory that this side is done with it.
class memory_slot {
    std::shared_ptr<arena_file> _file;
    uint32_t _slot = 0;

public:
    memory_slot() noexcept = default;
    memory_slot(std::shared_ptr<arena_file> f, uint32_t slot) noexcept : _file(std::move(f)), _slot(slot) {}
    memory_slot(memory_slot&& o) noexcept = default;
    memory_slot& operator=(memory_slot&& o) noexcept;
    ~memory_slot() { release(); }

    uint32_t index() const noexcept { return _slot; }
    int fd() const noexcept { return _file->fd.get(); }
    shm::conduit conduit() const noexcept { return _file->arena.memory().at(_slot); }

private:
    void release() noexcept;
};

class arenas {
    std::list<std::shared_ptr<arena_file>> _joined;
    std::vector<std::shared_ptr<arena_file>> _made;

public:
    // Memory that a program sent with a connection. The layout's limit on rings, not ours: what is merely too large is
    // refused through itself. EINVAL, EPROTO: it is no arena, or has no such slot.
    // ENOMEM: a limit on mappings.
    // The mapping needs `file` no longer.
    base::result<memory_slot> join(int file, uint32_t slot, budget& all, const program_ptr& owner);
    // For a connection that is brought to this listener.
    base::result<memory_slot> make(uint64_t listener, uint32_t ring_bytes, budget& all, const program_ptr& owner);
    void forget_listener(uint64_t listener);
    // Joined ones without a connection whose program has ended: nobody else will use them. True: some rest still.
    bool forget_ended();
    void clear();
};

}  // namespace vmsgr::conn
