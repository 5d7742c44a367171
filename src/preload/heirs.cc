#include "preload/heirs.hh"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <string_view>

#include "base/program_file.hh"
#include "preload/runtime.hh"

namespace vmsgr::preload {

namespace {

constexpr char library[] = "libvmsgr-preload.so";
constexpr size_t path_max = 4096;

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

// Calls each(path) for what execvp would try, until it says true.
template <typename Each>
void each_candidate(const char* name, Each&& each) noexcept {
    const char* path = ::getenv("PATH");
    std::string_view left(path != nullptr ? path : "/bin:/usr/bin");
    for (;;) {
        const auto folder = left.substr(0, left.find(':'));
        char full[path_max];
        if (folder.size() + strlen(name) + 2 <= sizeof full) {
            char* at = full;
            if (!folder.empty()) {
                memcpy(at, folder.data(), folder.size());
                at += folder.size();
                *at++ = '/';
            }
            strcpy(at, name);
            if (each(full)) {
                return;
            }
        }
        if (folder.size() == left.size()) {
            return;
        }
        left.remove_prefix(folder.size() + 1);
    }
}

base::program_facts look_at(const successor& next) noexcept {
    if (next.path == nullptr) {
        return base::look_at_program(next.file);
    }
    if (!next.searched || strchr(next.path, '/') != nullptr) {
        return base::look_at_program(next.path);
    }
    base::program_facts found;
    each_candidate(next.path, [&found](const char* path) noexcept {
        if (::access(path, X_OK) != 0) {
            return false;
        }
        found = base::look_at_program(path);
        return true;
    });
    return found;
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

const char* why_plain(const successor& next, char* const* envp) noexcept {
    const char* preload = value_in(envp, "LD_PRELOAD");
    if (preload == nullptr || strstr(preload, library) == nullptr) {
        return "its environment has no LD_PRELOAD of ours";
    }
    if (!same(value_in(envp, "VMSGR_ROUTES"), ::getenv("VMSGR_ROUTES")) ||
        !same(value_in(envp, "VMSGR_SOCKET"), ::getenv("VMSGR_SOCKET"))) {
        return "its environment has other routes, or none";
    }
    const auto facts = look_at(next);
    if (facts.obstacle != base::preload_obstacle::none) {
        return base::to_text(facts.obstacle);
    }
    if (!routes_concern(next, facts.is_script)) {
        return "no route is for a program of its name";
    }
    return runtime().session.ensure_as_self() ? nullptr : "it could not attach, or only as another user";
}

}  // namespace vmsgr::preload
