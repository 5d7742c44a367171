#include "cli/program.hh"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <optional>
#include <vector>

#include "base/unique_fd.hh"

namespace vmsgr::cli {

namespace {

constexpr size_t headers_max = 128;

template <typename T>
std::optional<T> read_at(int fd, uint64_t offset) {
    T value;
    return ::pread(fd, &value, sizeof value, off_t(offset)) == ssize_t(sizeof value) ? std::optional(value)
                                                                                     : std::nullopt;
}

bool has_interpreter(int fd, const Elf64_Ehdr& e) {
    for (size_t i = 0; i < e.e_phnum && i < headers_max; ++i) {
        auto p = read_at<Elf64_Phdr>(fd, e.e_phoff + i * sizeof(Elf64_Phdr));
        if (p && p->p_type == PT_INTERP) {
            return true;
        }
    }
    return false;
}

// The interpreter in a script's first line; empty for none.
std::string interpreter_of(int fd) {
    std::array<char, 256> buf{};
    ssize_t n = ::pread(fd, buf.data(), buf.size() - 1, 0);
    std::string_view line(buf.data(), n > 0 ? size_t(n) : 0);
    if (!line.starts_with("#!")) {
        return {};
    }
    line = line.substr(2, line.find('\n') == line.npos ? line.npos : line.find('\n') - 2);
    auto begin = line.find_first_not_of(" \t");
    if (begin == line.npos) {
        return {};
    }
    line = line.substr(begin);
    return std::string(line.substr(0, line.find_first_of(" \t")));
}

std::string privilege_obstacle(int fd) {
    struct stat st;
    if (::geteuid() == 0 || ::fstat(fd, &st) != 0) {
        return {};  // root gains nothing by exec, so the linker trusts the environment
    }
    if ((st.st_mode & S_ISUID) != 0 && st.st_uid != ::geteuid()) {
        return "it is setuid";
    }
    if ((st.st_mode & S_ISGID) != 0 && st.st_gid != ::getegid()) {
        return "it is setgid";
    }
    if (::fgetxattr(fd, "security.capability", nullptr, 0) > 0) {
        return "it has file capabilities";
    }
    return {};
}

std::string obstacle(const std::string& path, int depth) {
    base::unique_fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
    if (!fd) {
        return {};  // executable but not readable: exec will tell
    }
    auto e = read_at<Elf64_Ehdr>(fd.get(), 0);
    if (!e || memcmp(e->e_ident, ELFMAG, SELFMAG) != 0) {
        auto interpreter = interpreter_of(fd.get());
        return interpreter.empty() || depth == 0 ? std::string() : obstacle(interpreter, depth - 1);
    }
    if (auto why = privilege_obstacle(fd.get()); !why.empty()) {
        return why;
    }
    if (e->e_ident[EI_CLASS] != ELFCLASS64) {
        return "it is a 32-bit program";
    }
    return has_interpreter(fd.get(), *e) ? std::string() : "it is linked statically";
}

}  // namespace

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
    constexpr int scripts_deep = 4;  // the kernel's own limit
    return obstacle(path, scripts_deep);
}

}  // namespace vmsgr::cli
