// The keeper that wants to take over from this one (keeper/upgrade.hh), as this one sees it. It waits for nothing and
// takes no memory; until it has said `yours` this keeper can always go on. Single thread.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "keeper/board.hh"
#include "keeper/supervisor.hh"
#include "keeper/upgrade.hh"
#include "keeper/voice.hh"

namespace vmsgr::keeper {

// What it is told, and given at once.
struct upgrade_offer {
    int listening = -1;  // beside the control socket; none: no upgrades
    std::string version;
    std::string config;   // its file, absolute
    uint32_t options = 0;  // of the command line
    uint64_t file[2] = {};  // own_file(), before it is replaced
    size_t shards = 0;
    uint16_t registry = 0;  // the turn of the list of listeners that programs have (local/registry.hh)
    int control = -1;
    // Those of helpers of this keeper; none once a helper has ended, as nobody serves them then.
    base::unique_fd stats, metrics;
};

class successor {
public:
    enum class phase : uint8_t {
        none,
        reloads,   // it wants no more than that the configuration is read again
        prepares,  // until its worker stands by
        rests,     // ours hands over what is young
        stops,     // ours was killed
        takes,     // it has been given, or is being given, what is kept
        has_all,   // its worker carries everything: it waits for `yours`
        fails,     // it was killed; until the last of its processes is gone
    };

private:
    upgrade_offer _offer;
    std::shared_ptr<const voice> _voice;
    phase _at = phase::none;
    base::unique_fd _channel, _life, _process;
    pid_t _pid = -1;
    int64_t _until_ms = 0;
    size_t _next_entry = 0;
    uint32_t _given = 0;
    bool _said_all = false;
    upgrade_message _in, _out;
    descriptors _got;
    std::vector<int> _rights;

    void answer(const class custody& c, const supervisor& manager);
    const char* why_not(const supervisor& manager) const;
    bool send(std::span<const int> fds);
    void give(const class custody& c, const board& shown, uint64_t restarts);
    int64_t _stopped_ns = 0;

public:
    successor(upgrade_offer o, std::shared_ptr<const voice> v);

    phase at() const noexcept { return _at; }
    bool is_between() const noexcept { return _at == phase::stops || _at == phase::takes || _at == phase::has_all; }
    pid_t pid() const noexcept { return _pid; }
    int listening() const noexcept { return _offer.listening; }
    int channel() const noexcept { return _channel.get(); }
    int life() const noexcept { return _life.get(); }
    bool wants_to_write() const noexcept { return _at == phase::takes && !_said_all; }
    // In a new worker of ours.
    void forget() noexcept;

    // Somebody has connected. busy: why there can be no upgrade now; null: there can.
    void accept(const char* busy);
    // What came on its channel.
    void hear(const class custody& c, const supervisor& manager);
    // Its processes are gone.
    void has_ended() noexcept;
    void look_at_clock(int64_t now_ms);
    std::optional<int64_t> until_ms() const noexcept;
    void fail(const char* why);
    void worker_rests(int64_t now_ms) noexcept;
    void worker_is_killed() noexcept;
    // Some of it, or all: it goes on when the channel takes more.
    void go_on_giving(const class custody& c, const board& shown, uint64_t restarts);
    // It alone is the keeper when this returns true. signal: that came meanwhile; 0: none.
    bool let_go(int signal) noexcept;
    // A reload was asked for: now.
    bool takes_reload() noexcept { return _at == phase::reloads && std::exchange(_until_ms, 0) != 0; }
    // status: as the worker tells it.
    void has_reloaded(std::string_view status) noexcept;
    // A helper has ended.
    void helper_ended() noexcept;
};

}  // namespace vmsgr::keeper
