// A vmsgrd of its own for one test: its configuration, its folder, its end.
#pragma once

#include <sys/types.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace vmsgr::test {

// Where the binaries are: beside this one.
std::string binary(const std::string& name);

struct finished {
    int exit_code = -1;  // 128 + n for a signal
    std::string out, err;
};
// Runs to its end, ten seconds at most.
finished run(const std::vector<std::string>& words);

class daemon_process {
    std::string _folder;
    pid_t _pid = -1;

public:
    static constexpr std::string_view all_direct = "routes:\n  - name: all\n    via: direct\n";

    // Waits until it is ready; throws with its log when it does not become so.
    explicit daemon_process(std::string_view extra_config = all_direct);
    ~daemon_process();

    std::string socket() const { return _folder + "/vmsgrd.sock"; }
    std::string folder() const { return _folder; }
    std::string log() const;
    pid_t pid() const { return _pid; }
    pid_t worker() const;  // in which everything happens; pid() is its keeper's

    nlohmann::json status() const;
    uint64_t faults(const std::string& reason) const { return status()["faults_by_reason"][reason]; }
    size_t open_descriptors() const;
    // Until no more than `n` are open; the milliseconds it took, or -1 after the limit.
    double until_descriptors(size_t n, int limit_ms = 2000) const;
    double cpu_s() const;

    // SIGTERM; the exit code.
    int stop();
    void kill();  // SIGKILL, of the daemon alone
    int wait();
};

}  // namespace vmsgr::test
