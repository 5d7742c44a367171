#include "preload/inherit.hh"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <array>

#include "base/sockets.hh"
#include "base/sys.hh"
#include "preload/listening.hh"
#include "preload/objects.hh"
#include "preload/real.hh"
#include "preload/runtime.hh"

namespace vmsgr::preload {

namespace {

constexpr char variable[] = "VMSGR_INHERIT";
constexpr char assignment[] = "VMSGR_INHERIT=1";
constexpr int inherited_fds_max = 1024;

// What is deposited of a stream: where its memory is in the two files.
struct stream_place {
    uint32_t slot = 0;
    uint32_t page = 0;
};

// A number of ours with the same open socket, or -1. The mark tells where to look, the kernel whether it is so.
int number_of(uint64_t mark, int fd) noexcept {
    const uint64_t cookie = base::socket_cookie(fd);
    for (int n = 0; n <= highest_number(); ++n) {
        object* o = at_number(n);
        if (o != nullptr && o->what == kind::stream && o->stream.page().id == mark && base::socket_cookie(n) == cookie) {
            return n;
        }
    }
    return -1;
}

object* inherited_stream(client::inherited& from) noexcept {
    stream_place at;
    memcpy(&at, from.data.data(), sizeof at);
    if (from.fd_count != 2) {
        return nullptr;
    }
    auto slot = client::join_slot(std::move(from.fds[0]), at.slot);
    auto page = client::join_page(std::move(from.fds[1]), at.page);
    if (!slot || !page) {
        return nullptr;
    }
    auto stream = client::stream::adopt(std::move(*slot), std::move(*page));
    if (!stream) {
        return nullptr;
    }
    table_lock l;
    object* o = new_object(kind::stream);
    if (o != nullptr) {
        o->stream = std::move(stream);
    }
    return o;
}

bool is_listener(int fd) noexcept { return base::socket_option(fd, SO_ACCEPTCONN) == 1; }

void take(int fd) noexcept {
    const uint64_t mark = shm::mark_of_bell(fd);
    if (mark == 0) {
        return;
    }
    object* stale = nullptr;
    bool known_already = false;
    {
        table_lock l;
        if (int same = number_of(mark, fd); same >= 0) {
            known_already = true;
            if (same != fd) {
                stale = set_number(fd, at_number(same));
            }
        }
    }
    if (!known_already) {
        client::inherited from;
        object* o = nullptr;
        if (runtime().session.adopt(fd, from) == 0) {
            o = is_listener(fd) ? inherited_listener(from) : inherited_stream(from);
        }
        if (o == nullptr) {
            log("descriptor %d was a connection, but nobody of this user left it with vmsgrd", fd);
            return;
        }
        table_lock l;
        stale = set_number(fd, o);
    }
    if (stale != nullptr) {
        finish(stale);
    }
}

// Leaves with the daemon what an heir of this number needs. Once a session for a stream. True: something was sent.
bool deposit(int fd) noexcept {
    use o(fd);
    auto& session = runtime().session;
    if (o && o->what == kind::listener && o->listener.by_daemon.load()) {
        deposit_listener(fd, *o.get());
        return true;
    }
    if (!o || o->what != kind::stream) {
        return false;
    }
    auto& page = o->stream.page();
    o->stream.add_holder();
    if (!session.ensure() || page.deposited.exchange(session.id()) == session.id()) {
        return false;
    }
    const stream_place at{o->stream.slot().index(), o->stream.held_page().index()};
    const int left[] = {o->stream.slot().fd(), o->stream.held_page().fd()};
    std::array<uint8_t, sizeof at> data;
    memcpy(data.data(), &at, sizeof at);
    session.deposit(fd, left, data);
    return true;
}

// Whether there are any to be inherited. A new program, or a spawned child, may get any of ours under any number, and
// nobody tells: from now on each may have another holder.
bool deposit_all() noexcept {
    bool any = false, sent = false;
    for (int fd = 0; fd <= highest_number(); ++fd) {
        if (!known(fd)) {
            continue;
        }
        {
            use o(fd);
            any = any || (o && (o->what == kind::stream || (o->what == kind::listener && o->listener.by_daemon.load())));
        }
        sent = deposit(fd) || sent;
    }
    if (sent) {
        runtime().session.await_settled();
    }
    return any;
}

}  // namespace

void take_inheritance() noexcept {
    if (::getenv(variable) == nullptr) {
        return;
    }
    for (int fd = 0; fd < inherited_fds_max; ++fd) {
        take(fd);
    }
    ::unsetenv(variable);
}

namespace {

template <typename Each>
void each_passed(const msghdr* m, Each&& each) noexcept {
    auto* message = const_cast<msghdr*>(m);
    for (cmsghdr* c = CMSG_FIRSTHDR(message); c != nullptr; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        for (size_t i = 0; CMSG_LEN((i + 1) * sizeof(int)) <= c->cmsg_len; ++i) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
            each(fd);
        }
    }
}

}  // namespace

void take_received(const msghdr* m) noexcept { each_passed(m, take); }

void note_sent(const msghdr* m) noexcept {
    bool sent = false;
    each_passed(m, [&sent](int fd) noexcept {
        use o(fd, kind::listener);
        if (o) {
            o->listener.page->holders.fetch_add(1);
        }
        sent = deposit(fd) || sent;
    });
    if (sent) {
        runtime().session.await_settled();
    }
}

char* const* environment_for_exec(char* const* envp) noexcept {
    if (!active.load(std::memory_order_relaxed) || envp == nullptr || !deposit_all()) {
        return envp;
    }
    size_t count = 0;
    while (envp[count] != nullptr) {
        ++count;
    }
    void* at = ::mmap(nullptr, (count + 2) * sizeof(char*), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        return envp;
    }
    auto** copy = static_cast<char**>(at);
    memcpy(copy, envp, count * sizeof(char*));
    copy[count] = const_cast<char*>(assignment);
    return copy;
}

}  // namespace vmsgr::preload
