#include "preload/inherit.hh"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

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

// A number of ours that is this connection, or -1.
int number_of(uint64_t key) noexcept {
    for (int fd = 0; fd <= highest_number(); ++fd) {
        object* o = at_number(fd);
        if (o != nullptr && o->what == kind::stream && o->stream.page().key == key) {
            return fd;
        }
    }
    return -1;
}

object* inherited_stream(uint64_t key) noexcept {
    base::unique_fd memory, end;
    if (runtime().session.adopt(key, memory, end) != 0) {
        return nullptr;
    }
    auto conduit = shm::open_conduit(memory.get(), shm::ring_bytes_max);
    auto page = shm::open_end_page(end.get());
    if (!conduit || !page) {
        return nullptr;
    }
    auto stream = client::stream::adopt(std::move(*conduit), std::move(*page));
    if (!stream || stream.page().key != key) {
        return nullptr;
    }
    table_lock l;
    object* o = new_object(kind::stream);
    if (o != nullptr) {
        o->stream = std::move(stream);
    }
    return o;
}

bool is_listener(int fd) noexcept {
    int type = 0;
    socklen_t len = sizeof type;
    return sys::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET;
}

void take(int fd) noexcept {
    uint64_t key = shm::key_of_bell(fd);
    if (key == 0) {
        return;
    }
    object* stale = nullptr;
    {
        table_lock l;
        if (int same = number_of(key); same >= 0) {
            if (same != fd) {
                stale = set_number(fd, at_number(same));
            }
            key = 0;
        }
    }
    if (key != 0) {
        object* o = is_listener(fd) ? inherited_listener(key) : inherited_stream(key);
        if (o == nullptr) {
            log("vmsgrd does not know the connection that descriptor %d was", fd);
            return;
        }
        table_lock l;
        stale = set_number(fd, o);
    }
    if (stale != nullptr) {
        finish(stale);
    }
}

// Whether there are any to be inherited. A new program, or a spawned child, may get any of ours under any number, and
// nobody tells: from now on each may have another holder.
bool share_doorbells() noexcept {
    table_lock l;
    bool any = false;
    for (int fd = 0; fd <= highest_number(); ++fd) {
        object* o = at_number(fd);
        if (o != nullptr && o->what == kind::stream) {
            o->stream.share();
            any = true;
        }
        any = any || (o != nullptr && o->what == kind::listener && o->listener.by_daemon.load());
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
    each_passed(m, [](int fd) noexcept {
        use o(fd);
        if (o && o->what == kind::listener) {
            o->listener.page->holders.fetch_add(1);
        } else if (o && o->what == kind::stream) {
            o->stream.share();
        }
    });
}


char* const* environment_for_exec(char* const* envp) noexcept {
    if (!active.load(std::memory_order_relaxed) || envp == nullptr || !share_doorbells()) {
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
