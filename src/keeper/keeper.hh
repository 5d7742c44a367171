// The first process of vmsgrd (docs/KEEPER.md): it starts the worker, in which everything happens, passes signals on to
// it, and starts the next one when it has died or stands still. It has one thread, waits for nobody but in poll(), and
// takes no memory that it did not have when it began.
#pragma once

#include <poll.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/error.hh"
#include "base/unique_fd.hh"
#include "keeper/board.hh"
#include "keeper/custody.hh"
#include "keeper/pauses.hh"
#include "keeper/predecessor.hh"
#include "keeper/successor.hh"
#include "keeper/supervisor.hh"
#include "keeper/voice.hh"
#include "keeper/watch.hh"
#include "keeper/worker.hh"

namespace vmsgr::keeper {

struct settings {
    size_t shards = 1;
    size_t entries = 0;  // of the ledger
    int64_t watchdog_ms = 0;  // a shard that stands still for longer is not waited for; 0: all are
    int control = -1;  // listens; whoever connects while there is no worker for long is turned away
    std::function<void()> stopping;  // once, when a stop is ordered: nobody may come any more
    upgrade_offer offer{};
    // In an upgrade: this keeper answers for everything from here on; so long was nothing carried.
    std::function<void(const upgrade_message& answer, int64_t pause_ns)> taken_over{};
};

// What a worker is given.
struct seat {
    board& shown;
    supervisor manager;
    base::unique_fd orders;  // daemon/signals.hh
    bool first;  // no worker was before it
    bool suspect;  // several before it ended at once: what they took over may be why
    base::unique_fd custody;  // ledger_share.hh
    std::span<entry> ledger;
    std::span<const kept> held;  // entries that an earlier worker has left, with descriptors of this process
    bool stands_by;  // these come later: receive_all() from `custody`
};

class keeper {
    settings _set;
    supervisor _manager;
    std::shared_ptr<const voice> _voice;
    shm::stats_page& _page;
    board* _board;
    class custody _custody;
    successor _next;
    std::optional<predecessor> _before;  // until it has let go
    int _stop_later = 0;  // a signal that came while another keeper took over, or this one did
    bool _handed_over = false;
    bool _worker_rests = false;  // it was told to hand over, and does nothing new
    std::string _why;
    int64_t _carries_ns = 0;  // when our worker was ready, in an upgrade
    std::vector<base::unique_fd> _helpers;  // which end with the last holder of these
    base::unique_fd _signals;
    worker _worker;
    pauses _pauses;
    watch _watch;
    std::optional<int64_t> _ready_ms;  // when the worker was
    std::optional<int64_t> _kill_at_ms;  // it does not go by itself
    bool _killed = false;  // by us
    std::optional<int64_t> _started_ms;  // the last worker
    int64_t _looked_ms = 0;
    bool _was_ready = false;  // some worker was
    bool _stop = false;
    std::string _last_word;  // that the service manager has not taken

    keeper(settings s, supervisor manager, voice v, shm::stats_page& page, board* b, class custody c,
           base::unique_fd signals, std::optional<predecessor> before);

public:
    // helpers: held as long as this lives, and by each worker. page: what it writes there is stats_page::worker.
    // before: the keeper from which this one takes over.
    static base::result<keeper> make(settings s, supervisor manager, voice v, shm::stats_page& page,
                                     std::vector<base::unique_fd> helpers, std::optional<predecessor> before = {});

    // Returns in each worker with its seat, and in the keeper, when there is to be no other worker, with nothing.
    std::optional<seat> run();
    int exit_code() const noexcept { return _exit_code; }
    // Another keeper has it all now: this process ends without a word to anybody.
    bool handed_over() const noexcept { return _handed_over; }
    // It was to take over, and has not.
    bool has_failed() const noexcept { return _before.has_value(); }
    const std::string& why() const noexcept { return _why; }

private:
    int _exit_code = 0;

    std::optional<seat> start_worker();
    int attend();
    bool goes_on_after(int wait_status);
    bool pause(int64_t ms);
    void wait(int64_t ms, bool turn_away);
    void take_signals();
    void take_signal(int number);
    void take_words();
    void take_custody();
    void pass_on(std::string_view text);
    void look_at_hearts(int64_t now_ms);
    void replace(size_t shard, char state);
    void turn_away() const noexcept;
    std::optional<int> reap();
    // Upgrades (keeper_upgrade.cc).
    static constexpr size_t upgrade_polls = 4, word_bytes = 512;
    void poll_for_upgrade(std::span<pollfd, upgrade_polls> fds) const noexcept;
    void take_upgrade(std::span<const pollfd, upgrade_polls> fds);
    bool is_later(int signal);
    bool take_own_word(std::string_view word);
    void attend_successor(int64_t now_ms);
    bool give_all();
    void hear_predecessor();
    void take_over();
    int64_t next_look_ms(int64_t now_ms) const noexcept;
};

}  // namespace vmsgr::keeper
