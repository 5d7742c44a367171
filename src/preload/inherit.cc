#include "preload/inherit.hh"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/sys.hh"
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
        int memory = runtime().session.adopt(key);
        if (memory < 0) {
            log("vmsgrd does not know the connection that descriptor %d was", fd);
            return;
        }
        auto conduit = shm::open_conduit(memory, shm::ring_bytes_max, shm::end::program);
        sys::close(memory);
        if (!conduit || conduit->header().key != key) {
            return;
        }
        auto stream = client::stream::adopt(std::move(*conduit));
        if (!stream) {
            return;
        }
        table_lock l;
        if (object* o = new_object(kind::stream)) {
            o->stream = std::move(stream);
            stale = set_number(fd, o);
        }
    }
    if (stale != nullptr) {
        finish(stale);
    }
}

bool have_streams() noexcept {
    table_lock l;
    for (int fd = 0; fd <= highest_number(); ++fd) {
        object* o = at_number(fd);
        if (o != nullptr && o->what == kind::stream) {
            return true;
        }
    }
    return false;
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

void take_received(const msghdr* m) noexcept {
    auto* message = const_cast<msghdr*>(m);
    for (cmsghdr* c = CMSG_FIRSTHDR(message); c != nullptr; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        for (size_t i = 0; CMSG_LEN((i + 1) * sizeof(int)) <= c->cmsg_len; ++i) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
            take(fd);
        }
    }
}

char* const* environment_for_exec(char* const* envp) noexcept {
    if (!active.load(std::memory_order_relaxed) || envp == nullptr || !have_streams()) {
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
