#include "keeper/ledger_share.hh"

#include <sys/socket.h>

#include <algorithm>

#include "base/rights.hh"

namespace vmsgr::keeper {

ledger_share::ledger_share(std::span<entry> all, std::span<const kept> held, unsigned shard, unsigned shards,
                           int channel)
    : _all(all), _channel(channel) {
    const size_t each = all.size() / shards + 1;
    _free.reserve(each);
    _unsaid.reserve(each);
    _late.reserve(each);
    for (size_t n = each; n-- > 0;) {
        const auto i = uint32_t(n * shards + shard);
        if (i >= all.size()) {
            continue;
        }
        if (i >= held.size() || held[i] == none_kept) {
            _free.push_back(i);
        } else {
            all[i].state.store(entry_kept, std::memory_order_relaxed);  // a dead worker may have asked: in vain
        }
    }
}

entry* ledger_share::take(entry_kind kind) noexcept {
    if (_free.empty()) {
        return nullptr;
    }
    auto& e = _all[_free.back()];
    _free.pop_back();
    e.kind = kind;
    return &e;
}

bool ledger_share::say(uint32_t index, entry_state state, std::span<const int> fds) const noexcept {
    custody_message what{state, index, uint32_t(fds.size())};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kept_fds)]{};
    iovec iov{&what, sizeof what};
    msghdr m{};
    m.msg_iov = &iov;
    m.msg_iovlen = 1;
    base::put_rights(m, control, fds);
    return ::sendmsg(_channel, &m, MSG_DONTWAIT | MSG_NOSIGNAL) == ssize_t(sizeof what);
}

// Kept before it is sent: a worker that dies right behind that has handed it over.
bool ledger_share::give(entry& e, std::span<const int> fds) noexcept {
    e.version = ledger_version;
    e.state.store(entry_kept, std::memory_order_release);
    if (say(index_of(e), entry_kept, fds)) {
        return true;
    }
    e.state.store(entry_free, std::memory_order_release);
    _free.push_back(index_of(e));
    return false;
}

void ledger_share::ask_back(entry& e) noexcept {
    if (e.state.load(std::memory_order_relaxed) != entry_kept) {
        return;
    }
    e.state.store(entry_asked, std::memory_order_release);
    if (!say(index_of(e), entry_asked, {})) {
        _unsaid.push_back(index_of(e));
    }
}

void ledger_share::leave(entry& e) noexcept {
    ask_back(e);
    _late.push_back(index_of(e));
    tick();
}

void ledger_share::tick() noexcept {
    std::erase_if(_unsaid, [this](uint32_t i) { return say(i, entry_asked, {}); });
    std::erase_if(_late, [this](uint32_t i) {
        if (!is_back(_all[i])) {
            return false;
        }
        _all[i].state.store(entry_free, std::memory_order_release);
        _free.push_back(i);
        return true;
    });
}

}  // namespace vmsgr::keeper
