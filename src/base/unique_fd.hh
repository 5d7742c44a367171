// A file descriptor with one owner. Any thread; not shared.
#pragma once

#include "base/sys.hh"

#include <utility>

namespace vmsgr::base {

class unique_fd {
    int _fd = -1;

public:
    unique_fd() noexcept = default;
    explicit unique_fd(int fd) noexcept : _fd(fd) {}
    unique_fd(unique_fd&& other) noexcept : _fd(other.release()) {}
    unique_fd& operator=(unique_fd&& other) noexcept {
        if (this != &other) {
            reset(other.release());
        }
        return *this;
    }
    ~unique_fd() { reset(); }

    int get() const noexcept { return _fd; }
    explicit operator bool() const noexcept { return _fd >= 0; }
    int release() noexcept { return std::exchange(_fd, -1); }
    void reset(int fd = -1) noexcept {
        int old = std::exchange(_fd, fd);
        if (old >= 0) {
            sys::close(old);
        }
    }
};

}  // namespace vmsgr::base
