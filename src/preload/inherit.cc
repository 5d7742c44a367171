#include "preload/inherit.hh"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <new>

#include "base/sys.hh"
#include "preload/listening.hh"
#include "preload/objects.hh"
#include "preload/real.hh"
#include "preload/runtime.hh"

namespace vmsgr::preload {

namespace {

constexpr const char* variable = "VMSGR_FDS";
constexpr size_t variable_length = 9;
constexpr size_t text_bytes = 64u << 10;
constexpr int inherited_fds_max = 1024;

void adopt_stream(int fd, uint64_t key, uint32_t tokens_taken) noexcept {
    int memory = runtime().session.adopt(key);
    if (memory < 0) {
        log("vmsgrd does not know the connection that descriptor %d was", fd);
        return;
    }
    auto conduit = shm::open_conduit(memory, shm::ring_bytes_max);
    sys::close(memory);
    if (!conduit || conduit->header().key != key) {
        return;
    }
    auto& h = conduit->header();
    base::address local = h.local, peer = h.peer;
    auto stream = client::stream::create(std::move(*conduit), client::phase::up);
    if (!stream) {
        return;
    }
    stream->page().local = local;
    stream->page().peer = peer;
    stream->page().family = local.family;
    stream->adopt_published(tokens_taken);
    table_lock l;
    if (object* o = new_object(kind::stream)) {
        o->stream = std::move(*stream);
        set_number(fd, o);
    }
}

// Does the number survive exec?
bool passed_on(int fd) noexcept {
    int flags = sys::fcntl(fd, F_GETFD);
    return flags >= 0 && (flags & FD_CLOEXEC) == 0;
}

// One conduit: "inode:key:tokens_taken;".
size_t describe(char* text, size_t bytes, bool all) noexcept {
    size_t n = 0;
    table_lock l;
    for (int fd = 0; fd <= highest_number() && n + 64 < bytes; ++fd) {
        object* o = at_number(fd);
        struct stat st;
        if (o == nullptr || o->what != kind::stream || !(all || passed_on(fd)) || ::fstat(fd, &st) != 0) {
            continue;
        }
        auto& page = o->stream.page();
        n += size_t(snprintf(text + n, bytes - n, "%lx:%llx:%x;", (unsigned long)st.st_ino,
                             (unsigned long long)page.key, page.rx.tokens_taken));
    }
    return n;
}

// The numbers of this process whose inode is `ino`: all dups of one doorbell are one stream.
void adopt_numbers(unsigned long ino, uint64_t key, uint32_t taken) noexcept {
    int first = -1;
    for (int fd = 0; fd < inherited_fds_max; ++fd) {
        struct stat st;
        if (::fstat(fd, &st) != 0 || !S_ISSOCK(st.st_mode) || st.st_ino != ino) {
            continue;
        }
        if (first < 0) {
            adopt_stream(fd, key, taken);
            first = fd;
        } else {
            table_lock l;
            add_alias(first, fd);
        }
    }
}

}  // namespace

void take_inheritance() noexcept {
    char* text = ::getenv(variable);
    if (text == nullptr) {
        return;
    }
    int used = 0;
    unsigned long ino = 0;
    unsigned long long key = 0;
    unsigned taken = 0;
    while (sscanf(text, "%lx:%llx:%x;%n", &ino, &key, &taken, &used) == 3) {
        adopt_numbers(ino, key, taken);
        text += used;
    }
    ::unsetenv(variable);
}

char* const* environment_for_exec(char* const* envp, bool all) noexcept {
    if (!active.load(std::memory_order_relaxed) || envp == nullptr) {
        return envp;
    }
    size_t count = 0;
    while (envp[count] != nullptr) {
        ++count;
    }
    void* at = ::mmap(nullptr, text_bytes + (count + 2) * sizeof(char*), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        return envp;
    }
    char* text = static_cast<char*>(at);
    size_t n = size_t(snprintf(text, text_bytes, "%s=", variable));
    size_t described = describe(text + n, text_bytes - n, all);
    if (described == 0) {
        ::munmap(at, text_bytes + (count + 2) * sizeof(char*));
        return envp;
    }
    auto** copy = reinterpret_cast<char**>(text + text_bytes);
    size_t kept = 0;
    for (size_t i = 0; i < count; ++i) {
        if (strncmp(envp[i], variable, variable_length) != 0 || envp[i][variable_length] != '=') {
            copy[kept++] = envp[i];
        }
    }
    copy[kept++] = text;
    copy[kept] = nullptr;
    return copy;
}

}  // namespace vmsgr::preload
