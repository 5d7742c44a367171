#include "attach/control_socket.hh"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <thread>
#include <utility>

#include "attach/access.hh"
#include "local/doors.hh"
#include "proto/control.hh"
#include "proto/dial.hh"

namespace vmsgr::attach {

namespace {

constexpr int backlog = 512;
constexpr auto lock_wait = std::chrono::milliseconds(2000);
constexpr auto last_words = std::chrono::milliseconds(200);

std::unexpected<base::error> failed(const std::string& what, const char* next_step) {
    auto e = base::os_error(what);
    return base::fail(e.errnum, e.text + "; " + next_step);
}

// Held from the look at an old socket until the new one is in its place, so that two daemons that start at once
// cannot both find it stale. The lock ends with the descriptor. It lies on a file that no other user can open, as
// whoever can open a file can lock it.
base::result<base::unique_fd> take_lock(const std::string& path) {
    base::unique_fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
    if (!fd) {
        return failed("cannot open " + path, "check the permissions of its folder");
    }
    struct stat st;
    if (::fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode) || (st.st_uid != ::geteuid() && ::geteuid() != 0) ||
        ::fchmod(fd.get(), 0600) != 0) {
        return base::fail(EPERM, path + " is not a file of vmsgrd's own user; remove it, or set another `socket`");
    }
    auto until = std::chrono::steady_clock::now() + lock_wait;
    while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
        if (std::chrono::steady_clock::now() > until) {
            return base::fail(EBUSY,
                              "another vmsgrd that starts keeps " + path + " locked; stop it, or set another `socket`");
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return fd;
}

// Who listens there; 0: nobody, -1: somebody. None: errno says why it is not known. The worker of a keeper that was
// killed listens for a moment longer.
std::optional<pid_t> held_by(const sockaddr_un& un, socklen_t len) {
    using clock = std::chrono::steady_clock;
    const auto began = clock::now();
    for (;; std::this_thread::sleep_for(std::chrono::milliseconds(10))) {
        base::unique_fd probe(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&un), len) != 0 && errno != EAGAIN) {
            return errno == ECONNREFUSED ? std::optional(0) : std::nullopt;
        }
        const auto who = identify(probe.get());
        const bool lives = !who || who->pid <= 0 || ::kill(who->pid, 0) == 0 || errno != ESRCH;
        if (clock::now() > began + (lives ? last_words : lock_wait)) {
            return who && who->pid > 0 ? who->pid : -1;
        }
    }
}

// Removes a socket file that nobody listens on.
base::result<void> clear_stale(const std::string& path, const sockaddr_un& un, socklen_t len) {
    struct stat st;
    if (::lstat(path.c_str(), &st) != 0) {
        return errno == ENOENT ? base::result<void>{} : failed("cannot look at " + path, "check its permissions");
    }
    if (!S_ISSOCK(st.st_mode)) {
        return base::fail(EEXIST, path + " exists and is no socket; move it away, or set another `socket`");
    }
    const auto held = held_by(un, len);
    if (held && *held != 0) {
        return base::fail(EADDRINUSE, "another vmsgrd" + (*held > 0 ? " (pid " + std::to_string(*held) + ")" : "") +
                                          " listens on " + path + "; stop it first, or set another `socket`");
    }
    if (!held) {
        return failed("cannot tell whether somebody listens on " + path, "remove it if no vmsgrd runs");
    }
    if (::unlink(path.c_str()) != 0) {
        return failed("cannot remove the stale socket " + path, "remove it, or run vmsgrd as its owner");
    }
    return {};
}

base::result<void> set_access(const std::string& path, const conf::access_config& a, mode_t mode) {
    if (!a.group.empty()) {
        group* g = ::getgrnam(a.group.c_str());
        if (g == nullptr) {
            return base::fail(ENOENT, "there is no group " + a.group + "; make it, or change access.group");
        }
        if (::chown(path.c_str(), uid_t(-1), g->gr_gid) != 0) {
            return failed("cannot give " + path + " to group " + a.group, "run vmsgrd as a member of it");
        }
    }
    if (::chmod(path.c_str(), mode) != 0) {
        return failed("cannot set the mode of " + path, "check the file system it lies on");
    }
    return {};
}

mode_t doors_mode(const conf::access_config& a) noexcept {
    return 0700 | ((a.mode & 0020) != 0 ? 0010 : 0) | ((a.mode & 0002) != 0 ? 0001 : 0);
}

// This process, or the user that a daemon before it became, and that this one will.
bool is_ours(uid_t owner, const std::string& user) {
    if (owner == ::geteuid() || ::geteuid() != 0 || user.empty()) {
        return owner == ::geteuid();
    }
    const passwd* p = ::getpwnam(user.c_str());
    return p != nullptr ? p->pw_uid == owner : std::to_string(owner) == user;
}

// Who may connect to the control socket may search the folder; nobody may list it, or write to it.
base::result<void> make_doors(const std::string& folder, const conf::access_config& a, const std::string& user) {
    if (folder.size() + 1 + shm::door_bytes > sizeof(sockaddr_un::sun_path)) {
        return base::fail(ENAMETOOLONG, "the socket path is too long: with the doors beside it, " + folder +
                                            "/, at most " +
                                            std::to_string(sizeof(sockaddr_un::sun_path) - 1 - shm::door_bytes) +
                                            " bytes fit; set a shorter `socket`");
    }
    struct stat st;
    if (::mkdir(folder.c_str(), 0700) != 0 &&
        (errno != EEXIST || ::lstat(folder.c_str(), &st) != 0 || !S_ISDIR(st.st_mode) || !is_ours(st.st_uid, user))) {
        return failed("cannot make the folder of doors " + folder, "move away what is there, or set another `socket`");
    }
    auto r = set_access(folder, a, doors_mode(a));
    if (r) {
        local::knock_at_all(folder.c_str(), true);  // of a daemon that was killed
    }
    return r;
}

int bind_for_us_alone(int fd, const sockaddr_un& un, socklen_t len) noexcept {
    const mode_t before = ::umask(0177);  // nobody else before mode and group are set
    const int r = ::bind(fd, reinterpret_cast<const sockaddr*>(&un), len);
    ::umask(before);
    return r;
}

// Whoever served the one before has ended, or is about to: its daemon's control socket was stale. access: none: for the
// daemon's user alone.
base::result<base::unique_fd> listen_beside(const std::string& path, int type, const conf::access_config* a) {
    sockaddr_un un;
    uint32_t len = 0;
    struct stat st;
    if (int e = proto::unix_address(path.c_str(), &un, len); e != 0) {
        return base::fail(e, "the socket path is too long: " + path + "; set a shorter `socket`");
    }
    if (::lstat(path.c_str(), &st) == 0 && (!S_ISSOCK(st.st_mode) || ::unlink(path.c_str()) != 0)) {
        return base::fail(EEXIST, path + " cannot be replaced; move it away, or set another `socket`");
    }
    base::unique_fd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd || bind_for_us_alone(fd.get(), un, len) != 0) {
        return failed("cannot make the socket " + path, "check the folder's permissions, or set another `socket`");
    }
    if (auto r = a != nullptr ? set_access(path, *a, a->mode) : base::result<void>{}; !r) {
        return std::unexpected(r.error());
    }
    if (::listen(fd.get(), backlog) != 0) {
        return failed("cannot listen on " + path, "check the limits of this system");
    }
    return fd;
}

}  // namespace

base::result<control_socket> control_socket::open(const conf::daemon_config& c) {
    control_socket s;
    sockaddr_un un;
    uint32_t len = 0;
    if (int e = proto::unix_address(c.socket.c_str(), &un, len); e != 0) {
        return base::fail(e, "the socket path is too long: " + c.socket + "; at most 107 bytes fit");
    }
    auto folder = std::filesystem::path(c.socket).parent_path().string();
    std::error_code ec;
    const bool made = std::filesystem::create_directories(folder, ec);
    if (ec) {
        errno = ec.value();
        return failed("cannot make " + folder, "make it for vmsgrd's user, or set another `socket`");
    }
    auto lock = take_lock(c.socket + ".lock");
    if (!lock) {
        return std::unexpected(lock.error());
    }
    if (auto r = clear_stale(c.socket, un, len); !r) {
        return std::unexpected(r.error());
    }
    s._fd.reset(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!s._fd) {
        return failed("socket", "check the limits on descriptors");
    }
    if (bind_for_us_alone(s._fd.get(), un, len) != 0) {
        return failed("cannot make the socket " + c.socket, "check the folder's permissions, or set another `socket`");
    }
    s._path = c.socket;
    s._folder = made ? folder : "";
    struct stat st;
    if (::lstat(c.socket.c_str(), &st) == 0) {
        s._dev = st.st_dev;
        s._ino = st.st_ino;
        s._owner = true;
    }
    if (auto r = set_access(c.socket, c.access, c.access.mode); !r) {
        return std::unexpected(r.error());
    }
    s._doors = c.socket + proto::doors_suffix;
    if (auto r = make_doors(s._doors, c.access, c.user); !r) {
        return std::unexpected(r.error());
    }
    auto stats = listen_beside(s._path + proto::stats_suffix, SOCK_STREAM, &c.access);
    auto upgrade = listen_beside(s._path + proto::upgrade_suffix, SOCK_SEQPACKET, nullptr);
    if (!stats || !upgrade) {
        return std::unexpected(stats ? upgrade.error() : stats.error());
    }
    s._stats = std::move(*stats);
    s._upgrade = std::move(*upgrade);
    if (::listen(s._fd.get(), backlog) != 0) {
        return failed("cannot listen on " + c.socket, "check the limits of this system");
    }
    return s;
}

base::result<control_socket> control_socket::take_over(const conf::daemon_config& c, base::unique_fd control,
                                                       base::unique_fd stats, base::unique_fd upgrade) {
    control_socket s;
    s._path = c.socket;
    s._doors = c.socket + proto::doors_suffix;
    s._fd = std::move(control);
    s._stats = std::move(stats);
    s._upgrade = std::move(upgrade);
    if (!s._stats) {  // whoever served it has ended
        auto made = listen_beside(s._path + proto::stats_suffix, SOCK_STREAM, &c.access);
        if (!made) {
            return std::unexpected(made.error());
        }
        s._stats = std::move(*made);
    }
    return s;
}

base::result<void> control_socket::own_files(const conf::access_config& a) {
    ::listen(_fd.get(), backlog);
    struct stat st;
    if (::lstat(_path.c_str(), &st) == 0) {
        _dev = st.st_dev;
        _ino = st.st_ino;
        _owner = true;
    }
    return change_access(a);
}

base::result<void> control_socket::give_to(uid_t uid) {
    for (const std::string& path : {_path, _doors, _path + proto::stats_suffix, _path + proto::upgrade_suffix,
                                    _path + ".lock", _path + ".node", _folder}) {
        if (!path.empty() && ::lchown(path.c_str(), uid, gid_t(-1)) != 0 && errno != ENOENT) {
            return failed("cannot give " + path + " to user " + std::to_string(uid), "run vmsgrd as root");
        }
    }
    return {};
}

base::result<void> control_socket::change_access(const conf::access_config& a) {
    auto r = set_access(_path, a, a.mode);
    if (r) {
        r = set_access(_path + proto::stats_suffix, a, a.mode);
    }
    return r ? set_access(_doors, a, doors_mode(a)) : r;
}

control_socket::control_socket(control_socket&& o) noexcept
    : _path(std::move(o._path)),
      _doors(std::move(o._doors)),
      _folder(std::move(o._folder)),
      _fd(std::move(o._fd)),
      _stats(std::move(o._stats)),
      _upgrade(std::move(o._upgrade)),
      _owner(std::exchange(o._owner, false)),
      _dev(o._dev),
      _ino(o._ino) {}

void control_socket::close() noexcept {
    if (!_fd) {
        return;
    }
    struct stat st;
    if (_owner && ::lstat(_path.c_str(), &st) == 0 && st.st_dev == _dev && st.st_ino == _ino) {
        ::unlink(_path.c_str());
        ::unlink((_path + proto::stats_suffix).c_str());
        ::unlink((_path + proto::upgrade_suffix).c_str());
        ::rmdir(_doors.c_str());
    }
    _fd.reset();
}

}  // namespace vmsgr::attach
