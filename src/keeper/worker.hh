// The process with the reactors, as its keeper has it. Single thread.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <array>
#include <optional>
#include <string_view>

#include "base/error.hh"
#include "base/unique_fd.hh"

namespace vmsgr::keeper {

// The order to hand over what is young: another version takes over, and the worker is killed then.
inline constexpr int order_hand_over = SIGUSR1;

class worker {
    pid_t _pid = -1;
    base::unique_fd _orders;  // a byte is a signal; it hangs up with the keeper
    base::unique_fd _words;   // what it tells the service manager
    base::unique_fd _custody;  // what it hands over (custody.hh)

public:
    // What the worker has of it.
    struct ends {
        base::unique_fd orders, words, custody;
    };
    // In the worker: its ends. In the keeper: nothing. The worker is killed when the thread that called this ends.
    base::result<std::optional<ends>> start();

    bool runs() const noexcept { return _pid > 0; }
    pid_t pid() const noexcept { return _pid; }
    int words() const noexcept { return _words.get(); }
    int custody() const noexcept { return _custody.get(); }
    void order(int signal) noexcept;
    void kill() noexcept;
    // Of one of its threads, for its backtrace.
    void abort(pid_t thread) noexcept;
    // 'R', 'S', 'D', 'T' (stopped), 't' (held by a debugger), 'Z'; '?': unknown.
    char state_of(pid_t thread) const noexcept;
    void close_words() noexcept { _words.reset(); }
    void close_custody() noexcept { _custody.reset(); }
    void has_ended() noexcept { *this = {}; }
};

// "exited with 3", "was killed by SIGKILL"
class end_text {
    std::array<char, 64> _text{};

public:
    explicit end_text(int wait_status) noexcept;
    std::string_view view() const noexcept { return _text.data(); }
};

}  // namespace vmsgr::keeper
