// The shared memory of this process: arenas (shm/arena.hh), made here or by the other party of a connection, and the
// files of end pages, which only this process, its forks and its heirs have. A connection holds a slot of the one and
// a page of the other.
//
// A fork shares all of it. So what exists at a fork takes no new connection, neither here nor in the child, and the
// other parties are told to begin no new one in it: who gets a connection after a fork shares no memory with the
// sibling.
//
// Any thread, signal handlers too. Nothing allocates from the heap.
#pragma once

#include <cstdint>
#include <utility>

#include "base/error.hh"
#include "base/unique_fd.hh"
#include "shm/arena.hh"

namespace vmsgr::client {

inline constexpr size_t end_page_bytes = 2048;
inline constexpr uint32_t pages_a_file = 64;
inline constexpr uint64_t towards_daemon = 0;
// Of connections that share a file of memory, where there are many.
inline constexpr uint32_t slots_a_file_min = 32;

struct memory_file;

// A slot of an arena, or an end page: held by one owner.
class held_memory {
    memory_file* _file = nullptr;
    uint32_t _index = 0;

public:
    held_memory() noexcept = default;
    held_memory(memory_file* f, uint32_t index) noexcept : _file(f), _index(index) {}
    // NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Assign): both are initialised
    held_memory(held_memory&& o) noexcept : _file(std::exchange(o._file, nullptr)), _index(o._index) {}
    held_memory& operator=(held_memory&& o) noexcept {
        std::swap(_file, o._file);
        std::swap(_index, o._index);
        return *this;
    }
    ~held_memory() { release(); }

    explicit operator bool() const noexcept { return _file != nullptr; }
    uint32_t index() const noexcept { return _index; }
    int fd() const noexcept;  // of the file; -1 if it could not be kept
    shm::conduit conduit() const noexcept;
    size_t rings_at() const noexcept;  // where the slot's rings begin in the file
    std::byte* page() const noexcept;

    // Nothing here touches it again. reusable, of a page: nobody else ever had it.
    void release(bool reusable = false) noexcept;
};

// A slot for a connection towards this listener (its id), or towards the daemon. Made here.
base::result<held_memory> take_slot(uint64_t towards, uint32_t ring_bytes);
// A slot of an arena that somebody else has made. EPROTO, EINVAL: it is none, or has no such slot.
base::result<held_memory> join_slot(base::unique_fd file, uint32_t slot);

base::result<held_memory> take_page();
// A page that a relative left for us.
base::result<held_memory> join_page(base::unique_fd file, uint32_t index);

// RLIMIT_FSIZE leaves room for end pages. Without them nothing can be carried that comes through a listener.
bool may_make_pages() noexcept;

void lock_memory_for_fork() noexcept;
void unlock_memory_after_fork() noexcept;

}  // namespace vmsgr::client
