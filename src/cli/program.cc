#include "cli/program.hh"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vector>

#include "base/program_file.hh"

namespace vmsgr::cli {

std::string_view basename_of(std::string_view path) {
    auto slash = path.rfind('/');
    return slash == path.npos ? path : path.substr(slash + 1);
}

base::result<std::string> find_program(const std::string& name) {
    std::vector<std::string> places;
    if (name.find('/') != name.npos) {
        places.push_back(name);
    } else {
        const char* env = ::getenv("PATH");
        std::string_view path = env != nullptr ? env : "/bin:/usr/bin";
        for (;;) {
            auto colon = path.find(':');
            auto folder = path.substr(0, colon);
            places.push_back((folder.empty() ? std::string(".") : std::string(folder)) + "/" + name);
            if (colon == path.npos) {
                break;
            }
            path = path.substr(colon + 1);
        }
    }
    bool forbidden = false;
    for (const auto& p : places) {
        struct stat st;
        if (::stat(p.c_str(), &st) != 0) {
            forbidden = forbidden || errno == EACCES;
            continue;
        }
        if (S_ISREG(st.st_mode) && ::access(p.c_str(), X_OK) == 0) {
            return p;
        }
        forbidden = true;
    }
    if (forbidden) {
        return base::fail(EACCES, name + ": found, but it cannot be executed");
    }
    return base::fail(ENOENT, name + (name.find('/') != name.npos ? ": no such program" : ": not found in PATH"));
}

std::string preload_obstacle(const std::string& path) {
    const auto why = base::look_at_program(path.c_str()).obstacle;
    return why == base::preload_obstacle::unreadable ? std::string() : base::to_text(why);  // exec will tell
}

}  // namespace vmsgr::cli
