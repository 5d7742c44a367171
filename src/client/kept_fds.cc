#include "client/kept_fds.hh"

#include <errno.h>

#include <utility>

#include "base/sys.hh"

namespace vmsgr::client {

namespace {
constinit fd_rules rules;
}

void set_fd_rules(const fd_rules& r) noexcept { rules = r; }

void keep_fd(int* where) noexcept {
    if (*where >= 0 && rules.keep != nullptr) {
        rules.keep(where);
    }
}

bool still_holds(int fd, const void* stream) noexcept { return rules.holds == nullptr || rules.holds(fd, stream); }

void replace_fd(int fd, int by) noexcept {
    if (rules.replace != nullptr) {
        rules.replace(fd, by);
    }
}

void ring_late(int fd, const void* stream) noexcept {
    if (rules.ring_late != nullptr) {
        rules.ring_late(fd, stream);
    }
}

void show_connection(int fd, const void* stream) noexcept {
    if (rules.show != nullptr) {
        rules.show(fd, stream);
    }
}

int ask_back(int fd, uint64_t id) noexcept { return rules.ask_back != nullptr ? rules.ask_back(fd, id) : -ENOSYS; }

void become_socket(int fd, int socket, bool first) noexcept {
    if (rules.become_socket != nullptr) {
        rules.become_socket(fd, socket, first);
    }
}

bool show_late_bytes(int fd, const void* stream, int64_t min_age_ns) noexcept {
    return rules.show_late_bytes != nullptr && rules.show_late_bytes(fd, stream, min_age_ns);
}

room_for_fds::room_for_fds(int number) noexcept : _lifted(rules.lift_limit != nullptr && rules.lift_limit(number)) {}
room_for_fds::~room_for_fds() {
    if (_lifted) {
        rules.lower_limit();
    }
}

void drop_fd(int* where) noexcept {
    if (*where < 0) {
        return;
    }
    if (rules.drop != nullptr) {
        rules.drop(where);
    } else {
        sys::close(std::exchange(*where, -1));
    }
}

}  // namespace vmsgr::client
