#include "keeper/custody.hh"

#include <errno.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/rights.hh"

namespace vmsgr::keeper {

namespace {

// The keeper's own, and those of workers that it starts.
constexpr size_t own_descriptors = 100;

void close_all(kept& fds) noexcept {
    for (int& fd : fds) {
        if (fd >= 0) {
            ::close(fd);
        }
        fd = -1;
    }
}

size_t count(const kept& fds) noexcept {
    return size_t(std::ranges::count_if(fds, [](int fd) { return fd >= 0; }));
}

// The descriptors of one message; all or none.
kept rights_in(msghdr& m, size_t expected) noexcept {
    kept out = none_kept;
    size_t n = 0;
    base::each_right(m, [&](int fd) {
        if (n < out.size()) {
            out[n++] = fd;
        } else {
            ::close(fd);
        }
    });
    if (n != expected) {
        close_all(out);  // there was no room for all; the worker has them still
    }
    return out;
}

}  // namespace

base::result<custody> custody::make(size_t entries) {
    auto memory = shm::create_unsealed("vmsgr-ledger", std::min(entries, entries_max) * sizeof(entry));
    return memory ? adopt(std::move(*memory), 0, entries) : std::unexpected(memory.error());
}

base::result<custody> custody::adopt(base::unique_fd ledger, size_t has, size_t entries) {
    custody c;
    c._entries = std::clamp(entries, std::min(has, entries_max), entries_max);
    c._memory = std::move(ledger);
    const size_t bytes = c._entries * sizeof(entry);
    struct stat st{};
    if (::fstat(c._memory.get(), &st) != 0 ||
        (size_t(st.st_size) < bytes && ::ftruncate(c._memory.get(), off_t(bytes)) != 0)) {
        return std::unexpected(base::os_error("no memory for the keeper's ledger"));
    }
    auto at = shm::map_own(c._memory.get(), bytes);
    if (!at) {
        return std::unexpected(at.error());
    }
    c._ledger = std::move(*at);
    c._kept = std::make_unique<kept[]>(c._entries);
    std::fill_n(c._kept.get(), c._entries, none_kept);
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur > own_descriptors) {
        c._most = files.rlim_cur - own_descriptors;
    }
    return c;
}

bool custody::put(uint32_t entry, const kept& fds) noexcept {
    const size_t n = count(fds);
    if (entry >= _entries || _kept[entry] != none_kept || n > room()) {
        return false;
    }
    _kept[entry] = fds;
    _descriptors += n;
    _used = std::max<size_t>(_used, entry + 1);
    return true;
}

bool custody::receive(int channel, unsigned most, bool worker_lives) noexcept {
    for (; most > 0; --most) {
        custody_message what{};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kept_fds)];
        iovec iov{&what, sizeof what};
        msghdr m{};
        m.msg_iov = &iov;
        m.msg_iovlen = 1;
        m.msg_control = control;
        m.msg_controllen = sizeof control;
        const ssize_t n = ::recvmsg(channel, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n <= 0) {
            return n < 0 && errno == EINTR;
        }
        kept fds = rights_in(m, what.descriptors);
        if (n != sizeof what || what.entry >= _entries) {
            close_all(fds);
            continue;
        }
        if (what.state == entry_asked && !worker_lives) {
            continue;  // these may be the last copies: the next worker ends the connection
        }
        take(what, fds);
    }
    return true;
}

void custody::take(const custody_message& m, kept fds) noexcept {
    kept& at = _kept[m.entry];
    if (at != none_kept) {
        _descriptors -= count(at);
        close_all(at);
    }
    if (m.state == entry_kept && _descriptors + count(fds) > _most) {
        close_all(fds);  // there is no room; its worker has them still
    } else if (m.state == entry_kept) {
        _descriptors += count(fds);
        at = fds;
        _used = std::max<size_t>(_used, m.entry + 1);
    } else {
        close_all(fds);
        ledger()[m.entry].state.store(entry_back, std::memory_order_release);  // pairs with ledger_share::is_back
    }
}

}  // namespace vmsgr::keeper
