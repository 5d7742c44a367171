// Which file a descriptor means. Both numbers: anybody can make a file system with any inode numbers. Any thread.
#pragma once

#include <sys/stat.h>

#include <optional>

namespace vmsgr::base {

struct file_id {
    dev_t device = 0;
    ino_t inode = 0;
    bool operator==(const file_id&) const = default;
};

// None, with errno: the kernel does not say. Then it equals no other file.
inline std::optional<file_id> file_id_of(int fd) noexcept {
    struct stat st;
    if (::fstat(fd, &st) != 0) {
        return std::nullopt;
    }
    return file_id{st.st_dev, st.st_ino};
}

}  // namespace vmsgr::base
