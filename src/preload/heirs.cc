#include "preload/heirs.hh"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <string_view>

#include "base/program_file.hh"
#include "base/sockets.hh"
#include "base/sys.hh"
#include "base/unique_fd.hh"
#include "preload/runtime.hh"
#include "preload/vfork_child.hh"

namespace vmsgr::preload {

using proto::plain_cause;

namespace {

constexpr char library[] = "libvmsgr-preload.so";
constexpr size_t piece_bytes = 4096;

const char* value_in(char* const* envp, std::string_view name) noexcept {
    for (; *envp != nullptr; ++envp) {
        if (strncmp(*envp, name.data(), name.size()) == 0 && (*envp)[name.size()] == '=') {
            return *envp + name.size() + 1;
        }
    }
    return nullptr;
}

bool same(const char* a, const char* b) noexcept {
    return a == b || (a != nullptr && b != nullptr && strcmp(a, b) == 0);
}

base::program_facts look_at(const successor& next) noexcept {
    if (next.path == nullptr) {
        return base::look_at_program(next.file);
    }
    if (!next.searched || strchr(next.path, '/') != nullptr) {
        return base::look_at_program(next.path);
    }
    char path[base::program_path_max];
    return base::find_program(next.path, path) == 0 ? base::look_at_program(path) : base::program_facts{};
}

// The library takes part in a program by its name. A script's process has its interpreter's, which is not looked up.
bool routes_concern(const successor& next, bool is_script) noexcept {
    const auto& routes = runtime().routes;
    if (routes.concerns("")) {
        return true;  // programs of any name
    }
    if (is_script || next.argv == nullptr || next.argv[0] == nullptr) {
        return false;
    }
    const std::string_view name(next.argv[0]);
    return routes.concerns(name.substr(name.rfind('/') + 1));
}

}  // namespace

namespace {

base::unique_fd open_of(pid_t pid, const char* file) noexcept {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", int(pid), file);
    return base::unique_fd(int(sys::call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC)));
}

bool has_loaded(pid_t pid) noexcept {
    const auto maps = open_of(pid, "maps");
    char text[piece_bytes + sizeof library];
    size_t kept = 0;
    for (;;) {
        const long n = maps ? sys::call(SYS_read, maps.get(), text + kept, sizeof text - kept) : 0;
        if (n <= 0) {
            return false;
        }
        const std::string_view seen(text, kept + size_t(n));
        if (seen.find(library) != seen.npos) {
            return true;
        }
        kept = std::min(seen.size(), sizeof library - 1);  // it may go on in the next piece
        memmove(text, seen.data() + seen.size() - kept, kept);
    }
}

bool routes_concern(pid_t pid) noexcept {
    const auto& routes = runtime().routes;
    if (routes.concerns("")) {
        return true;
    }
    char name[32];
    const auto comm = open_of(pid, "comm");
    const long n = comm ? sys::call(SYS_read, comm.get(), name, sizeof name) : 0;
    return n > 1 && routes.concerns(std::string_view(name, size_t(n) - 1));
}

}  // namespace

bool will_start(const successor& next) noexcept {
    if (next.path == nullptr) {
        return true;
    }
    char path[base::program_path_max];
    return (next.searched ? base::find_program(next.path, path) : base::why_not_executable(next.path)) == 0;
}

plain_cause why_plain(int unix_socket) noexcept {
    const auto peer = base::peer_credentials(unix_socket);
    if (!peer || peer->pid <= 0) {
        return plain_cause::receiver_unknown;
    }
    if (peer->pid == ::getpid() || peer->pid == ::getppid()) {
        return plain_cause::none;
    }
    if (!has_loaded(peer->pid) || !routes_concern(peer->pid)) {
        return plain_cause::receiver_without_library;
    }
    return runtime().session.ensure_as_self() && peer->uid == ::geteuid() ? plain_cause::none
                                                                          : plain_cause::receiver_of_another_user;
}

bool tell_heir(char* const* envp) noexcept {
    char* const value = const_cast<char*>(value_in(envp, "VMSGR_INHERIT"));
    if (value == nullptr || (value[0] != '0' && value[0] != '1') || value[1] != 0) {
        return false;
    }
    if (value[0] != '1') {
        value[0] = '1';
    }
    return true;
}

bool was_told() noexcept {
    char* const value = ::getenv("VMSGR_INHERIT");
    const bool told = value != nullptr && value[0] == '1' && value[1] == 0;
    if (told) {
        value[0] = '0';
    }
    return told;
}

plain_cause why_plain(const successor& next, char* const* envp) noexcept {
    const char* preload = value_in(envp, "LD_PRELOAD");
    if (preload == nullptr || strstr(preload, library) == nullptr) {
        return plain_cause::no_preload;
    }
    if (!same(value_in(envp, "VMSGR_ROUTES"), ::getenv("VMSGR_ROUTES")) ||
        !same(value_in(envp, "VMSGR_SOCKET"), ::getenv("VMSGR_SOCKET"))) {
        return plain_cause::other_routes;
    }
    if (!tell_heir(envp)) {
        return plain_cause::not_told;
    }
    const auto facts = look_at(next);
    if (facts.obstacle != base::preload_obstacle::none) {
        return proto::cause_of(facts.obstacle);
    }
    if (!routes_concern(next, facts.is_script)) {
        return plain_cause::not_routed;
    }
    const bool could_attach = in_vfork_child() ? left_by_parent() : runtime().session.ensure_as_self();
    return could_attach ? plain_cause::none : plain_cause::not_attached;
}

}  // namespace vmsgr::preload
