// The keeper from which this one takes over (keeper/upgrade.hh). Until it has let go this one may only end: it answers
// for nothing yet, and what it has been given is the other one's as well. Single thread.
#pragma once

#include <string>

#include "keeper/board.hh"
#include "keeper/supervisor.hh"
#include "keeper/upgrade.hh"

namespace vmsgr::keeper {

class predecessor {
public:
    enum class phase : uint8_t {
        prepares,   // our worker starts
        stands_by,  // it has said that our worker stands by
        takes,      // all was given to our worker
        has_all,    // our worker carries everything
        over,       // the other one has let go, or has ended
    };

private:
    base::unique_fd _channel;
    base::unique_fd _life;  // our workers have it as well
    upgrade_message _answer, _in, _all;
    descriptors _given;
    phase _at = phase::prepares;
    uint32_t _taken = 0;

public:
    // Who listens there is asked; waits for the answer for some seconds. version: ours. if_other: where it is of this
    // program's file it only reads its configuration again, and the answer says so (upgrade_step::reloaded).
    static base::result<predecessor> reach(const std::string& path, const char* version, bool if_other);

    phase at() const noexcept { return _at; }
    int channel() const noexcept { return _channel.get(); }
    const upgrade_message& answer() const noexcept { return _answer; }
    // What came with the answer; each once.
    base::unique_fd take_ledger() noexcept { return std::move(_given[0]); }
    base::unique_fd take_control() noexcept { return std::move(_given[1]); }
    base::unique_fd take_upgrade() noexcept { return std::move(_given[2]); }
    base::unique_fd take_stats() noexcept;
    base::unique_fd take_metrics() noexcept;
    // Output goes where the other's went.
    void take_stdio() noexcept;
    supervisor manager() const;

    // In a worker: what the two keepers say is not its business.
    void forget() noexcept { _channel.reset(); }
    void worker_stands_by() noexcept;
    // What came. Gives it to the keeper's own custody and to its worker; false: this keeper can only end.
    // shown: gets what its worker is to know before it begins.
    bool hear(class custody& c, int worker, board& shown);
    void worker_is_ready() noexcept;
    const upgrade_message& last() const noexcept { return _in; }
    // The one that says that all was given.
    const upgrade_message& all() const noexcept { return _all; }
    void let_go() noexcept;
};

}  // namespace vmsgr::keeper
