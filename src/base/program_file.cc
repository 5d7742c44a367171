#include "base/program_file.hh"

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string_view>

#include "base/sys.hh"
#include "base/unique_fd.hh"

namespace vmsgr::base {

namespace {

constexpr size_t headers_max = 128;
constexpr size_t line_max = 256;  // of a script's first line, as in the kernel
constexpr int scripts_deep = 4;   // the kernel's own limit

// Past the hooks of the preload library, which reads files for itself here.
base::unique_fd open_program(const char* path) noexcept {
    return base::unique_fd(int(sys::call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NOCTTY)));
}

template <typename T>
std::optional<T> read_at(int fd, uint64_t offset) noexcept {
    T value;
    return ::pread(fd, &value, sizeof value, off_t(offset)) == ssize_t(sizeof value) ? std::optional(value)
                                                                                     : std::nullopt;
}

preload_obstacle linker_obstacle(int fd, const Elf64_Ehdr& e) noexcept {
    for (size_t i = 0; i < e.e_phnum && i < headers_max; ++i) {
        const auto p = read_at<Elf64_Phdr>(fd, e.e_phoff + i * sizeof(Elf64_Phdr));
        if (!p || p->p_type != PT_INTERP) {
            continue;
        }
        char name[line_max] = {};
        const size_t n = std::min<uint64_t>(p->p_filesz, sizeof name - 1);
        const bool read = ::pread(fd, name, n, off_t(p->p_offset)) == ssize_t(n);
        // musl's is ld-musl-x86_64.so.1; there are others.
        return read && strstr(name, "/ld-linux") != nullptr ? preload_obstacle::none : preload_obstacle::other_libc;
    }
    return preload_obstacle::linked_statically;
}

preload_obstacle privilege_obstacle(int fd) noexcept {
    struct stat st;
    if (::geteuid() == 0 || ::fstat(fd, &st) != 0) {
        return preload_obstacle::none;  // root gains nothing by exec, so the linker trusts the environment
    }
    if ((st.st_mode & S_ISUID) != 0 && st.st_uid != ::geteuid()) {
        return preload_obstacle::setuid;
    }
    if ((st.st_mode & S_ISGID) != 0 && st.st_gid != ::getegid()) {
        return preload_obstacle::setgid;
    }
    const bool capable = ::fgetxattr(fd, "security.capability", nullptr, 0) > 0;
    return capable ? preload_obstacle::capabilities : preload_obstacle::none;
}

// The interpreter in a script's first line; empty for none.
std::string_view interpreter_of(int fd, char (&line)[line_max]) noexcept {
    const ssize_t n = ::pread(fd, line, sizeof line - 1, 0);
    std::string_view text(line, n > 0 ? size_t(n) : 0);
    if (!text.starts_with("#!")) {
        return {};
    }
    text = text.substr(2, std::min(text.find('\n'), text.size()) - 2);
    text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
    return text.substr(0, text.find_first_of(" \t"));
}

program_facts look(int fd, int depth) noexcept {
    const auto e = read_at<Elf64_Ehdr>(fd, 0);
    if (!e || memcmp(e->e_ident, ELFMAG, SELFMAG) != 0) {
        char line[line_max];
        char path[line_max] = {};
        const auto interpreter = interpreter_of(fd, line);
        if (interpreter.empty() || depth == 0) {
            return {preload_obstacle::none, true};  // a shell reads it, or exec fails
        }
        std::ranges::copy(interpreter, path);
        const auto program = open_program(path);
        return {program ? look(program.get(), depth - 1).obstacle : preload_obstacle::unreadable, true};
    }
    if (const auto why = privilege_obstacle(fd); why != preload_obstacle::none) {
        return {why};
    }
    return {e->e_ident[EI_CLASS] == ELFCLASS64 ? linker_obstacle(fd, *e) : preload_obstacle::other_class};
}

}  // namespace

program_facts look_at_program(int file) noexcept { return look(file, scripts_deep); }

program_facts look_at_program(const char* path) noexcept {
    const auto program = open_program(path);
    return program ? look_at_program(program.get()) : program_facts{};
}

const char* to_text(preload_obstacle o) noexcept {
    switch (o) {
    case preload_obstacle::none: return "";
    case preload_obstacle::unreadable: return "its file cannot be read";
    case preload_obstacle::linked_statically: return "it is linked statically";
    case preload_obstacle::other_class: return "it is a 32-bit program";
    case preload_obstacle::other_libc: return "its C library is not glibc";
    case preload_obstacle::setuid: return "it is setuid";
    case preload_obstacle::setgid: return "it is setgid";
    case preload_obstacle::capabilities: return "it has file capabilities";
    }
    return "";
}

}  // namespace vmsgr::base
