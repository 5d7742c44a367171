#include "base/program_file.hh"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "base/sys.hh"
#include "base/unique_fd.hh"

namespace vmsgr::base {

namespace {

constexpr size_t headers_max = 128;
constexpr int scripts_deep = 4;  // the kernel's own limit
constexpr uint64_t notes_max = 4096;

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

// musl's is ld-musl-x86_64.so.1; there are others.
bool is_glibc_linker(int fd, const Elf64_Phdr& p) noexcept {
    char name[script_line_max] = {};
    const size_t n = std::min<uint64_t>(p.p_filesz, sizeof name - 1);
    return ::pread(fd, name, n, off_t(p.p_offset)) == ssize_t(n) && strstr(name, "/ld-linux") != nullptr;
}

// The note that Go's linker leaves in every program, beside those of the C tools.
bool has_go_note(int fd, const Elf64_Phdr& p) noexcept {
    constexpr uint32_t go_build_id = 4;
    const uint64_t bytes = std::min(p.p_filesz, notes_max);
    for (uint64_t at = 0; at + sizeof(Elf64_Nhdr) + 4 <= bytes;) {
        const auto note = read_at<Elf64_Nhdr>(fd, p.p_offset + at);
        const auto name = read_at<std::array<char, 4>>(fd, p.p_offset + at + sizeof(Elf64_Nhdr));
        if (!note || !name) {
            return false;
        }
        if (note->n_type == go_build_id && note->n_namesz == 4 && memcmp(name->data(), "Go\0", 4) == 0) {
            return true;
        }
        constexpr uint64_t align = 4;
        at += sizeof *note + (uint64_t(note->n_namesz) + align - 1) / align * align +
              (uint64_t(note->n_descsz) + align - 1) / align * align;
    }
    return false;
}

preload_obstacle linker_obstacle(int fd, const Elf64_Ehdr& e) noexcept {
    auto found = preload_obstacle::linked_statically;
    bool go = false;
    for (size_t i = 0; i < e.e_phnum && i < headers_max; ++i) {
        const auto p = read_at<Elf64_Phdr>(fd, e.e_phoff + i * sizeof(Elf64_Phdr));
        if (p && p->p_type == PT_INTERP) {
            found = is_glibc_linker(fd, *p) ? preload_obstacle::none : preload_obstacle::other_libc;
        }
        go = go || (p && p->p_type == PT_NOTE && has_go_note(fd, *p));
    }
    return go ? preload_obstacle::go : found;
}

// What the kernel calls a secure execution: the new program has rights that its real user has not. The linker then
// takes no library from the environment. A process that has another effective user already is in this, too.
preload_obstacle privilege_obstacle(int fd) noexcept {
    struct stat st;
    struct statvfs fs;
    if (::fstat(fd, &st) != 0 || ::fstatvfs(fd, &fs) != 0) {
        return preload_obstacle::none;
    }
    const bool grants = (fs.f_flag & ST_NOSUID) == 0 && sys::call(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1;
    const bool sets_user = grants && (st.st_mode & S_ISUID) != 0;
    constexpr mode_t set_group = S_ISGID | S_IXGRP;  // without the second it is a mark for file locks
    const bool sets_group = grants && (st.st_mode & set_group) == set_group;
    if ((sets_user ? st.st_uid : ::geteuid()) != ::getuid()) {
        return preload_obstacle::setuid;
    }
    if ((sets_group ? st.st_gid : ::getegid()) != ::getgid()) {
        return preload_obstacle::setgid;
    }
    // A real user root has them all, so they are nothing new to it.
    const bool capable = grants && ::getuid() != 0 && ::fgetxattr(fd, "security.capability", nullptr, 0) > 0;
    return capable ? preload_obstacle::capabilities : preload_obstacle::none;
}

program_facts look(int fd, int depth) noexcept {
    const auto e = read_at<Elf64_Ehdr>(fd, 0);
    if (!e || memcmp(e->e_ident, ELFMAG, SELFMAG) != 0) {
        script_line line;
        read_script_line(fd, line);
        if (line.interpreter == nullptr || depth == 0) {
            return {preload_obstacle::none, true};  // a shell reads it, or exec fails
        }
        const auto program = open_program(line.interpreter);
        return {program ? look(program.get(), depth - 1).obstacle : preload_obstacle::unreadable, true};
    }
    if (const auto why = privilege_obstacle(fd); why != preload_obstacle::none) {
        return {why};
    }
    if (e->e_ident[EI_DATA] != ELFDATA2LSB || (e->e_machine != EM_X86_64 && e->e_machine != EM_386)) {
        return {preload_obstacle::other_machine};
    }
    return {e->e_ident[EI_CLASS] == ELFCLASS64 ? linker_obstacle(fd, *e) : preload_obstacle::other_class};
}

}  // namespace

void read_script_line(int file, script_line& out) noexcept {
    out.interpreter = out.argument = nullptr;
    const ssize_t n = ::pread(file, out.text, sizeof out.text - 1, 0);
    out.text[n > 0 ? n : 0] = 0;
    if (strncmp(out.text, "#!", 2) != 0) {
        return;
    }
    char* end = out.text + strcspn(out.text, "\n");
    while (end > out.text && (end[-1] == ' ' || end[-1] == '\t')) {
        --end;
    }
    *end = 0;
    char* const first = out.text + 2 + strspn(out.text + 2, " \t");
    if (*first == 0) {
        return;
    }
    out.interpreter = first;
    char* rest = first + strcspn(first, " \t");
    if (*rest != 0) {
        *rest++ = 0;
        out.argument = rest + strspn(rest, " \t");
    }
}

// Folders may be "executed" too, as access() says.
int why_not_executable(const char* path) noexcept {
    struct stat st;
    if (::stat(path, &st) != 0) {
        return errno == EACCES ? EACCES : ENOENT;
    }
    return S_ISREG(st.st_mode) && ::faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0 ? 0 : EACCES;
}

int find_program(const char* name, char (&path)[program_path_max]) noexcept {
    const size_t length = strlen(name);
    if (length >= sizeof path) {
        return ENAMETOOLONG;
    }
    if (length == 0 || strchr(name, '/') != nullptr) {
        memcpy(path, name, length + 1);
        return length == 0 ? ENOENT : why_not_executable(path);
    }
    const char* const set = ::getenv("PATH");
    std::string_view left(set != nullptr ? set : "/bin:/usr/bin");
    for (int worst = ENOENT;;) {
        const auto folder = left.substr(0, left.find(':'));
        if (folder.size() + length + 2 <= sizeof path) {
            char* at = std::ranges::copy(folder, path).out;
            if (!folder.empty()) {
                *at++ = '/';
            }
            memcpy(at, name, length + 1);
            const int e = why_not_executable(path);
            if (e == 0) {
                return 0;
            }
            worst = e == EACCES ? e : worst;
        }
        if (folder.size() == left.size()) {
            return worst;
        }
        left.remove_prefix(folder.size() + 1);
    }
}

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
    case preload_obstacle::other_machine: return "it is for another processor";
    case preload_obstacle::other_libc: return "its C library is not glibc";
    case preload_obstacle::setuid: return "it is setuid";
    case preload_obstacle::setgid: return "it is setgid";
    case preload_obstacle::capabilities: return "it has file capabilities";
    case preload_obstacle::go: return "it is a Go program, which makes its system calls itself";
    }
    return "";
}

}  // namespace vmsgr::base
