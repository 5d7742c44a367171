#include "daemon/door_keeper.hh"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/process.hh"
#include "local/doors.hh"

namespace vmsgr::daemon {

namespace {

[[noreturn]] void keep_doors(int daemon_lives, const char* doors) noexcept {
    ::prctl(PR_SET_NAME, "vmsgrd-doors");
    ::setsid();  // who kills the daemon's whole session kills nobody who has to tell of it
    for (int s : {SIGTERM, SIGINT, SIGHUP, SIGQUIT}) {
        ::signal(s, SIG_IGN);  // sent to the whole group; the daemon's end is what counts
    }
    // Nobody waits for the end of an output of ours, and no socket lives on here.
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd : {0, 1, 2}) {
        ::dup2(null, fd);
    }
    ::dup2(daemon_lives, 3);
    ::close_range(4, ~0U, 0);
    char byte;
    ssize_t n = 0;
    while ((n = ::read(3, &byte, 1)) < 0 && errno == EINTR) {
    }
    if (n == 0) {
        local::knock_at_all(doors, false);
    }
    ::_exit(0);
}

}  // namespace

base::result<base::unique_fd> start_door_keeper(const std::string& doors) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) {
        return std::unexpected(base::os_error("pipe"));
    }
    base::unique_fd theirs(ends[0]), ours(ends[1]);
    const auto pid = base::fork_process();
    if (!pid) {
        return std::unexpected(pid.error());
    }
    if (*pid == 0) {
        keep_doors(theirs.get(), doors.c_str());
    }
    return ours;
}

}  // namespace vmsgr::daemon
