// The reasoning of `vmsgr explain`: from facts of /proc and of the daemon to one verdict. Single thread.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/document.hh"
#include "cli/process_facts.hh"

namespace vmsgr::cli {

struct verdict {
    bool found = true;         // there is such a process and descriptor
    bool accelerated = false;
    std::string reason;        // a word for programs: "route_says_posix"
    std::string cause;         // of plain_mode and left_to_kernel: "io_uring", "static"
    std::string text;          // for people, one line
    std::string program;
    std::vector<std::pair<std::string, std::string>> facts;
    json connection;           // the daemon's entry, when it is accelerated
};

// daemon: its status; daemon_error: why there is none.
verdict inquire(process_facts& of, int fd, const listed_status& daemon, const std::string& daemon_error);
// A connection that this process would make to this address now.
verdict inquire_planned(pid_t pid, const base::address& to, const listed_status& daemon,
                        const std::string& daemon_error);

}  // namespace vmsgr::cli
