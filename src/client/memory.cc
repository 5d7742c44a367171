#include "client/memory.hh"

#include <errno.h>
#include <sys/resource.h>

#include <algorithm>
#include <bit>
#include <mutex>
#include <new>

#include "base/file_id.hh"
#include "base/pages.hh"
#include "base/signal_lock.hh"
#include "client/kept_fds.hh"

namespace vmsgr::client {

enum class file_kind : uint8_t { none, made_arena, joined_arena, made_pages, joined_pages };

struct memory_file {
    file_kind kind = file_kind::none;
    bool old = false;      // existed at a fork: nothing new begins here
    int fd = -1;
    base::file_id file;
    uint64_t towards = 0;  // a made arena: for whom
    uint32_t uses = 0;     // held slots or pages
    uint64_t last_use = 0;
    uint64_t pages_taken = 0;
    shm::made_arena arena;
    shm::mapping pages;
    memory_file* next = nullptr;
};

namespace {

constexpr size_t files_a_chunk = 64;
// Arenas without a connection stay mapped for the next one of the same two parties, the latest of them.
constexpr uint32_t resting_max = 16;

constinit base::signal_lock mutex;
using locked = std::lock_guard<base::signal_lock>;
constinit memory_file* files = nullptr;  // all that ever were; the free ones have kind none
uint64_t clock_ticks = 0;

bool add_files() noexcept {
    auto* all = static_cast<memory_file*>(base::new_pages(files_a_chunk * sizeof(memory_file)));
    if (all == nullptr) {
        return false;
    }
    for (size_t i = 0; i < files_a_chunk; ++i) {
        auto* f = new (&all[i]) memory_file;
        f->next = std::exchange(files, f);
    }
    return true;
}

template <typename Which>
memory_file* find(Which&& which) noexcept {
    for (auto* f = files; f != nullptr; f = f->next) {
        if (which(*f)) {
            return f;
        }
    }
    return nullptr;
}

bool is_arena(const memory_file& f) noexcept {
    return f.kind == file_kind::made_arena || f.kind == file_kind::joined_arena;
}

// What goes away is moved out under the lock, and ends without it.
struct leaving {
    shm::made_arena arena;
    shm::mapping pages;
    int fd = -1;
    ~leaving() { drop_fd(&fd); }
};

void let_go(memory_file& f, leaving& out) noexcept {
    if (f.kind == file_kind::made_arena) {
        f.arena.memory().close();  // the other party may unmap it
    }
    out.arena = std::exchange(f.arena, {});
    out.pages = std::exchange(f.pages, {});
    // drop_fd knows a kept descriptor by its number.
    out.fd = std::exchange(f.fd, -1);
    f.kind = file_kind::none;
    f.old = false;
    f.towards = f.pages_taken = 0;
    f.file = {};
    f.uses = 0;
}

// The arena that has rested longest, where there are too many, or one that somebody has closed.
memory_file* surplus() noexcept {
    uint32_t resting = 0;
    memory_file* oldest = nullptr;
    for (auto* f = files; f != nullptr; f = f->next) {
        if (!is_arena(*f) || f->uses != 0) {
            continue;
        }
        if (f->old || f->arena.memory().closed()) {
            return f;
        }
        ++resting;
        if (oldest == nullptr || f->last_use < oldest->last_use) {
            oldest = f;
        }
    }
    return resting > resting_max ? oldest : nullptr;
}

held_memory use(memory_file& f, uint32_t index) noexcept {
    ++f.uses;
    f.last_use = ++clock_ticks;
    return {&f, index};
}

// A record for a file that is not known yet, which it takes over; the lock is held. Null: no memory.
memory_file* fresh(file_kind kind, base::unique_fd& file) noexcept {
    auto is_free = [](const memory_file& f) { return f.kind == file_kind::none; };
    auto* f = find(is_free);
    if (f == nullptr && add_files()) {
        f = find(is_free);
    }
    if (f != nullptr) {
        f->kind = kind;
        f->file = base::file_id_of(file.get()).value_or(base::file_id{});
        f->fd = file.release();
        keep_fd(&f->fd);
    }
    return f;
}

std::unexpected<base::error> no_records() noexcept {
    return base::fail(ENOMEM, "no memory for the library's own records");
}

bool may_begin(const memory_file& f) noexcept { return !f.old && !f.arena.memory().closed(); }

// A first arena maps little, as most programs have few connections to one place.
constexpr size_t first_arena_bytes = 128u << 20;
uint32_t slots_of_next(bool first, uint32_t ring_bytes) noexcept {
    const auto slots = uint32_t(std::clamp<size_t>(first_arena_bytes / ring_bytes / 2, 1, shm::arena_slots_max));
    return first ? slots : std::max(slots, slots_a_file_min);
}

}  // namespace

int held_memory::fd() const noexcept { return _file->fd; }
shm::conduit held_memory::conduit() const noexcept { return _file->arena.memory().at(_index); }
size_t held_memory::rings_at() const noexcept {
    const auto& a = _file->arena.memory();
    return shm::slot_rings_at(a.slots(), a.ring_bytes(), _index);
}
std::byte* held_memory::page() const noexcept { return _file->pages.data() + _index * end_page_bytes; }

void held_memory::release(bool reusable) noexcept {
    auto* f = std::exchange(_file, nullptr);
    if (f == nullptr) {
        return;
    }
    leaving gone, also_gone;
    locked l(mutex);
    --f->uses;
    switch (f->kind) {
    case file_kind::made_arena: f->arena.give_back(_index); break;
    case file_kind::made_pages:
        if (reusable) {
            f->pages_taken &= ~(uint64_t(1) << _index);
        }
        break;
    default: break;
    }
    const bool spent = f->kind == file_kind::joined_pages || (f->kind == file_kind::made_pages && ~f->pages_taken == 0);
    if (f->uses == 0 && (f->old || spent || (is_arena(*f) && f->arena.memory().closed()))) {
        let_go(*f, gone);
    }
    if (auto* s = surplus()) {
        let_go(*s, also_gone);
    }
}

base::result<held_memory> take_slot(uint64_t towards, uint32_t ring_bytes) {
    leaving gone;
    bool first = true;
    locked l(mutex);
    for (auto* f = files; f != nullptr; f = f->next) {
        if (f->kind != file_kind::made_arena || f->towards != towards || !may_begin(*f) ||
            f->arena.memory().ring_bytes() != ring_bytes) {
            continue;
        }
        if (auto slot = f->arena.take()) {
            return use(*f, *slot);
        }
        first = false;
        if (f->uses == 0 && !gone.arena.memory()) {
            let_go(*f, gone);  // the other party holds all its slots, or was killed with them
        }
    }
    auto made = [&] {
        const room_for_fds room(near_any_limit);
        return shm::create_arena(slots_of_next(first, ring_bytes), ring_bytes);
    }();
    if (!made) {
        return std::unexpected(made.error());
    }
    auto* f = fresh(file_kind::made_arena, made->fd);
    if (f == nullptr) {
        return no_records();
    }
    f->towards = towards;
    f->arena = shm::made_arena(std::move(made->memory), 0);
    return use(*f, *f->arena.take());
}

base::result<held_memory> join_slot(base::unique_fd file, uint32_t slot) {
    leaving gone;
    locked l(mutex);
    const auto which = base::file_id_of(file.get());
    auto* f = find([which](const memory_file& m) { return m.kind == file_kind::joined_arena && m.file == which; });
    if (f == nullptr) {
        auto opened = shm::open_arena(file.get(), shm::ring_bytes_max);
        if (!opened) {
            return std::unexpected(opened.error());
        }
        f = fresh(file_kind::joined_arena, file);
        if (f == nullptr) {
            return no_records();
        }
        f->arena = shm::made_arena(std::move(*opened), 1);
    }
    if (slot >= f->arena.memory().slots()) {
        if (f->uses == 0) {
            let_go(*f, gone);
        }
        return base::fail(EINVAL, "a connection in slot ", slot, ", which its memory does not have");
    }
    return use(*f, slot);
}

base::result<held_memory> take_page() {
    locked l(mutex);
    for (auto* f = files; f != nullptr; f = f->next) {
        if (f->kind == file_kind::made_pages && !f->old && ~f->pages_taken != 0) {
            const auto index = uint32_t(std::countr_one(f->pages_taken));
            f->pages_taken |= uint64_t(1) << index;
            return use(*f, index);
        }
    }
    auto made = [] {
        const room_for_fds room(near_any_limit);
        return shm::create_mapped("vmsgr-ends", pages_a_file * end_page_bytes);
    }();
    if (!made) {
        return std::unexpected(made.error());
    }
    auto* f = fresh(file_kind::made_pages, made->fd);
    if (f == nullptr) {
        return no_records();
    }
    f->pages = std::move(made->memory);
    f->pages_taken = 1;
    return use(*f, 0);
}

base::result<held_memory> join_page(base::unique_fd file, uint32_t index) {
    if (index >= pages_a_file) {
        return base::fail(EINVAL, "an end page beyond the end of its file");
    }
    locked l(mutex);
    const auto which = base::file_id_of(file.get());
    auto* f = find([which](const memory_file& m) { return m.pages && m.file == which; });
    if (f == nullptr) {
        auto mapped = shm::map_sealed(file.get(), pages_a_file * end_page_bytes);
        if (!mapped) {
            return std::unexpected(mapped.error());
        }
        f = fresh(file_kind::joined_pages, file);
        if (f == nullptr) {
            return no_records();
        }
        f->pages = std::move(*mapped);
    }
    return use(*f, index);
}

bool may_make_pages() noexcept {
    rlimit limit{};
    return ::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur >= pages_a_file * end_page_bytes;
}

void lock_memory_for_fork() noexcept {
    mutex.lock();
    for (auto* f = files; f != nullptr; f = f->next) {
        if (f->kind != file_kind::none) {
            f->old = true;
            if (is_arena(*f)) {
                f->arena.memory().close();
            }
        }
    }
}

// Parent and child alike. What nobody used goes with the next release.
void unlock_memory_after_fork() noexcept { mutex.unlock(); }

}  // namespace vmsgr::client
