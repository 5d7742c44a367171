// Which file a descriptor means, and of which kind. Both numbers: anybody can make a file system with any inode
// numbers. Any thread.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <optional>

#include "base/sys.hh"

namespace vmsgr::base {

struct file_id {
    dev_t device = 0;
    ino_t inode = 0;
    bool operator==(const file_id&) const = default;
};

// Memory (a memfd, a file of tmpfs), and no file of a file system whose owner may keep us waiting, as fstat would. Does
// not wait itself.
inline bool is_memory(int fd) noexcept { return sys::fcntl(fd, F_GET_SEALS) >= 0; }

// None, with errno: the kernel does not say. Then it equals no other file.
inline std::optional<file_id> file_id_of(int fd) noexcept {
    struct stat st;
    if (::fstat(fd, &st) != 0) {
        return std::nullopt;
    }
    return file_id{st.st_dev, st.st_ino};
}

}  // namespace vmsgr::base
