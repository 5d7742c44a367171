#include "local/doors.hh"

#include <dirent.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>

#include "base/random.hh"
#include "base/sockets.hh"
#include "proto/control.hh"
#include "shm/layout.hh"

namespace vmsgr::local {

namespace {

std::string random_name() {
    static constexpr char letters[] = "abcdefghijklmnopqrstuvwxyz234567";
    unsigned char random[20];
    static_assert(sizeof random < shm::door_bytes);
    base::random_bytes(random, sizeof random);
    std::string name;
    for (unsigned char r : random) {
        name += letters[r % 32];
    }
    return name;
}

}  // namespace

std::string door_path(const std::string& folder, std::string_view name) { return folder + "/" + std::string(name); }

base::result<made_door> make_door(const std::string& folder, int backlog) {
    made_door d;
    d.place.name = random_name();
    d.place.path = door_path(folder, d.place.name);
    sockaddr_un un;
    uint32_t len = 0;
    if (int e = proto::unix_address(d.place.path.c_str(), &un, len); e != 0) {
        return base::fail(e, "the path of a door is too long: " + d.place.path);
    }
    d.fd.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    // Anybody who may search the folder may dial.
    if (!d.fd || ::bind(d.fd.get(), reinterpret_cast<sockaddr*>(&un), len) != 0) {
        return std::unexpected(base::os_error("making a door in " + folder));
    }
    if (::chmod(d.place.path.c_str(), 0666) != 0 || ::listen(d.fd.get(), backlog) != 0) {
        auto e = base::os_error("opening a door in " + folder);
        remove_door(d.place);
        return std::unexpected(std::move(e));
    }
    d.place.cookie = base::socket_cookie(d.fd.get());
    return d;
}

void remove_door(const door_place& d) noexcept {
    if (!d.path.empty()) {
        ::unlink(d.path.c_str());
    }
}

bool knock(const char* path) noexcept {
    sockaddr_un un;
    uint32_t len = 0;
    if (proto::unix_address(path, &un, len) == 0) {
        base::unique_fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        return ::connect(fd.get(), reinterpret_cast<sockaddr*>(&un), len) == 0 || errno == EAGAIN;
    }
    return false;
}

void knock_at_all(const char* folder, bool remove, std::span<const std::string> but) noexcept {
    DIR* dir = ::opendir(folder);
    if (dir == nullptr) {
        return;
    }
    while (dirent* e = ::readdir(dir)) {
        char path[sizeof(sockaddr_un::sun_path)];
        if (e->d_name[0] == '.' || snprintf(path, sizeof path, "%s/%s", folder, e->d_name) >= int(sizeof path)) {
            continue;
        }
        if (std::ranges::binary_search(but, std::string_view(e->d_name))) {
            continue;
        }
        knock(path);
        if (remove) {
            ::unlink(path);
        }
    }
    ::closedir(dir);
}

}  // namespace vmsgr::local
