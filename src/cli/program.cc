#include "cli/program.hh"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <filesystem>

#include "base/program_file.hh"

namespace vmsgr::cli {

std::string_view basename_of(std::string_view path) {
    auto slash = path.rfind('/');
    return slash == path.npos ? path : path.substr(slash + 1);
}

base::result<std::string> find_program(const std::string& name) {
    char path[base::program_path_max];
    switch (int e = base::find_program(name.c_str(), path)) {
    case 0: return path;
    case EACCES: return base::fail(e, name + ": found, but it cannot be executed");
    case ENOENT:
        return base::fail(e, name + (name.find('/') != name.npos ? ": no such program" : ": not found in PATH"));
    default: return base::fail(e, name + ": " + strerror(e));
    }
}

std::string preload_obstacle(const std::string& path) {
    const auto why = base::look_at_program(path.c_str()).obstacle;
    using enum base::preload_obstacle;
    return why == unreadable || why == go ? std::string() : base::to_text(why);  // exec will tell of the first
}

base::result<std::string> find_library() {
    namespace fs = std::filesystem;
    std::error_code ec;
    if (const char* named = ::getenv("VMSGR_PRELOAD"); named != nullptr && *named != 0) {
        auto path = fs::absolute(named, ec);
        if (ec || !fs::is_regular_file(path, ec)) {
            return base::fail(ENOENT, std::string("$VMSGR_PRELOAD names ") + named + ", which is no file");
        }
        return path.string();
    }
    auto lib = fs::read_symlink("/proc/self/exe", ec).parent_path().parent_path() / "lib";
    for (const char* folder : {"", "vmsgr", "x86_64-linux-gnu", "x86_64-linux-gnu/vmsgr"}) {
        auto path = lib / folder / preload_library;
        if (fs::is_regular_file(path, ec)) {
            return path.lexically_normal().string();
        }
    }
    return base::fail(ENOENT, std::string(preload_library) + " is not in " + lib.string() +
                                  "; build or install it, or name it in $VMSGR_PRELOAD");
}

// The linker splits LD_PRELOAD at colons and spaces.
base::result<std::string> preload_value(const std::string& library) {
    if (library.find_first_of(": ") != library.npos) {
        return base::fail(EINVAL, library + ": LD_PRELOAD cannot hold a path with a space or colon; move the library");
    }
    const char* before = ::getenv("LD_PRELOAD");
    if (before == nullptr || *before == 0) {
        return library;
    }
    std::string all = before;
    return all.starts_with(library) ? all : library + ":" + all;
}

}  // namespace vmsgr::cli
