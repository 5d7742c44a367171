#include "conn/arenas.hh"

#include <errno.h>

#include <algorithm>

namespace vmsgr::conn {

namespace {

// Joined arenas without a connection, kept mapped for the next one of the same program.
constexpr size_t resting_max = 64;

}  // namespace

memory_slot& memory_slot::operator=(memory_slot&& o) noexcept {
    release();
    _file = std::move(o._file);
    _slot = o._slot;
    return *this;
}

void memory_slot::release() noexcept {
    if (!_file) {
        return;
    }
    auto& end = conduit().header().end[1];
    end.flags.fetch_or(shm::end_left | shm::end_done, std::memory_order_release);
    if (_file->made) {
        _file->arena.give_back(_slot);
    }
    _file.reset();
}

base::result<memory_slot> arenas::join(int file, uint32_t slot, budget& all, const program_ptr& owner) {
    const auto which = base::file_id_of(file);
    if (!which) {
        return base::fail(errno, "fstat of shared memory");
    }
    auto at = std::ranges::find_if(_joined, [&](auto& f) { return f->file == *which; });
    if (at == _joined.end()) {
        auto opened = shm::open_arena(file, shm::ring_bytes_max);
        if (!opened) {
            return std::unexpected(opened.error());
        }
        size_t resting = 0;
        std::erase_if(_joined, [&](auto& f) {
            return f.use_count() == 1 && (f->arena.memory().closed() || ++resting > resting_max);
        });
        auto map = lease::take(all.maps, owner->owner->of.maps);
        if (!map) {
            return base::fail(ENOMEM, "no memory mapping is left (vm.max_map_count)");
        }
        auto f = std::make_shared<arena_file>();
        f->owner = owner;
        f->map = std::move(*map);
        f->arena = shm::made_arena(std::move(*opened), 1);
        f->file = *which;
        at = _joined.insert(_joined.begin(), std::move(f));
    }
    if (slot >= (*at)->arena.memory().slots()) {
        return base::fail(EINVAL, "a slot that its memory does not have");
    }
    return memory_slot(*at, slot);
}

base::result<memory_slot> arenas::make(uint64_t listener, uint32_t ring_bytes, budget& all, const program_ptr& owner) {
    std::erase_if(_made,
                  [&](auto& f) { return f->towards == listener && f->arena.unused() && f->arena.memory().closed(); });
    for (auto& f : _made) {
        if (f->towards == listener) {
            if (auto slot = f->arena.take()) {
                return memory_slot(f, *slot);
            }
        }
    }
    auto place = lease::take(all.fds, owner->owner->of.fds);
    auto map = lease::take(all.maps, owner->owner->of.maps);
    if (!place || !map) {
        return base::fail(EMFILE, "no descriptor or memory mapping is left for shared memory (limits)");
    }
    auto made = shm::create_arena(shm::arena_slots_max, ring_bytes);
    if (!made) {
        return std::unexpected(made.error());
    }
    auto f = std::make_shared<arena_file>();
    f->arena = shm::made_arena(std::move(made->memory), 1);
    f->fd = std::move(made->fd);
    f->owner = owner;
    f->fds = std::move(*place);
    f->map = std::move(*map);
    f->made = true;
    f->towards = listener;
    _made.push_back(f);
    const uint32_t slot = *f->arena.take();
    return memory_slot(std::move(f), slot);
}

// Connections that stand keep theirs.
void arenas::forget_listener(uint64_t listener) {
    std::erase_if(_made, [&](auto& f) {
        if (f->towards == listener) {
            f->arena.memory().close();
        }
        return f->towards == listener;
    });
}

bool arenas::forget_ended() {
    bool rests = false;
    std::erase_if(_joined, [&](auto& f) {
        const bool unused = f.use_count() == 1;
        rests = rests || (unused && !f->owner->ended());
        return unused && f->owner->ended();
    });
    return rests;
}

void arenas::clear() {
    _made.clear();
    _joined.clear();
}

}  // namespace vmsgr::conn
