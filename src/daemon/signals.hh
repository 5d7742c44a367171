// The signals that people send to vmsgrd, as the keeper passes them on (keeper/worker.hh). A thread of its own takes
// them: no shard that is stuck holds them up.
//
//   SIGTERM, SIGINT   stop; a second one, or no end within the limit: end at once
//   SIGQUIT           end at once
//   SIGHUP            read the configuration again
//   order_hand_over   hand over to the keeper what is young (keeper/worker.hh)
//   no keeper         end at once
//
// An end at once resets the connections of other hosts (conn/end_mark.hh) and leaves the files, which the next start
// replaces.
//
// Made on the main thread. begin() and end() from shard 0.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "base/error.hh"
#include "base/unique_fd.hh"

namespace vmsgr::daemon {

class signals {
public:
    // Called on the thread, while it is not told to end(): they pass the word to a reactor.
    struct receivers {
        std::function<void()> stop;
        std::function<void()> reload;
        std::function<void()> hand_over;
    };

private:
    std::atomic<std::chrono::milliseconds> _limit;
    base::unique_fd _orders, _over;
    std::mutex _lock;  // for _to and _stop_asked; never held by a reactor for longer than a move
    receivers _to;
    bool _stop_asked = false;
    std::thread _thread;

    signals(std::chrono::milliseconds limit, base::unique_fd orders, base::unique_fd over);
    void run();
    void take(int signal);
    [[noreturn]] static void end_now(const char* why) noexcept;

public:
    // limit: from the first SIGTERM to the end of the process. orders: does not block.
    static base::result<std::unique_ptr<signals>> start(base::unique_fd orders, std::chrono::milliseconds limit);
    ~signals();
    signals(const signals&) = delete;

    // A stop that was asked for before is told at once.
    void begin(receivers to);
    void end() noexcept;
    void set_limit(std::chrono::milliseconds limit) noexcept { _limit = limit; }
};

}  // namespace vmsgr::daemon
