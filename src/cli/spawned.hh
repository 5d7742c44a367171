// Another program, run to its end, and what it wrote. Single thread.
#pragma once

#include <string>
#include <vector>

#include "base/error.hh"

namespace vmsgr::cli {

struct spawned {
    std::string out, err;  // at most spawned_bytes_max each; err without its last line ends
    int status = 0;  // as waitpid's
    bool in_time = true;  // or it was killed

    bool succeeded() const noexcept;
    std::string last_error_line() const { return err.substr(err.rfind('\n') + 1); }
};

inline constexpr size_t spawned_bytes_max = 64u << 20;

// words[0] is looked up in $PATH where it has no slash. variables: its whole environment, "NAME=value"; none: ours. Its
// input is empty. Error: it could not be started.
base::result<spawned> run_to_end(std::vector<std::string> words, int timeout_ms,
                                 std::vector<std::string> variables = {});

}  // namespace vmsgr::cli
