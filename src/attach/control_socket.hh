// The daemon's listening control socket. Made before Seastar starts, so that every way in which this can go wrong
// is one line on stderr and nothing is half started.
#pragma once

#include <sys/stat.h>

#include <string>

#include "base/error.hh"
#include "base/unique_fd.hh"
#include "conf/config.hh"

namespace vmsgr::attach {

class control_socket {
    std::string _path, _doors;
    std::string _folder;  // if it was made for the socket
    base::unique_fd _fd, _stats, _upgrade;
    bool _owner = false;  // of the files
    dev_t _dev = 0;
    ino_t _ino = 0;

public:
    // Makes the folder, replaces a stale socket, refuses to disturb a live one, sets mode and group, listens.
    static base::result<control_socket> open(const conf::daemon_config& c);

    // Those of a daemon that still runs, at the same path; the files are its, until own_files().
    static base::result<control_socket> take_over(const conf::daemon_config& c, base::unique_fd control,
                                                  base::unique_fd stats, base::unique_fd upgrade);

    control_socket() = default;
    control_socket(control_socket&& o) noexcept;
    control_socket& operator=(control_socket&&) = delete;
    ~control_socket() { close(); }

    // Before the daemon becomes another user: what was made is that user's. The folder too, if it was made.
    base::result<void> give_to(uid_t uid);
    // Mode and group anew; what fails changes nothing that matters: whoever was let in stays.
    base::result<void> change_access(const conf::access_config& a);
    int fd() const noexcept { return _fd.get(); }
    const std::string& path() const noexcept { return _path; }
    // Listens at path() + proto::stats_suffix, for the same users; whoever serves it takes it (daemon/stats_server.hh).
    base::unique_fd& stats() noexcept { return _stats; }
    // Listens at path() + proto::upgrade_suffix, for root and the daemon's user (keeper/upgrade.hh).
    int upgrade() const noexcept { return _upgrade.get(); }
    // The folder of doors (local/doors.hh), made with it and for the same users.
    const std::string& doors() const noexcept { return _doors; }
    // Removes the files, if they are still ours, and the folder of doors where it is empty.
    void close() noexcept;
    // In a worker: the files are its keeper's.
    void leave_files() noexcept { _owner = false; }
    // The daemon that had them has let go. Whoever asks who listens is told this process. What fails changes nothing.
    base::result<void> own_files(const conf::access_config& a);
};

}  // namespace vmsgr::attach
