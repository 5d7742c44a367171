#include "keeper/keeper.hh"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <new>

#include "base/clock.hh"

namespace vmsgr::keeper {

namespace {

constexpr int killed_exit = 1;
constexpr int64_t start_limit_ms = 60'000;  // of a worker that follows another
constexpr int64_t abort_ms = 300;           // to write its backtrace
constexpr int64_t quit_ms = 1000;           // an end at once takes no longer
constexpr int64_t stop_grace_ms = 2000;     // beyond its own limit
constexpr int64_t idle_look_ms = 1000;
constexpr int64_t short_pause_ms = 100;  // who comes meanwhile waits
constexpr int turned_away_at_once = 64;
constexpr unsigned custody_at_once = 256;
constexpr unsigned suspect_after = 3;

}  // namespace

base::result<keeper> keeper::make(settings s, supervisor manager, voice v, shm::stats_page& page,
                                  std::vector<base::unique_fd> helpers, std::optional<predecessor> before) {
    sigset_t set;
    sigemptyset(&set);
    for (int n : {SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGCHLD}) {
        sigaddset(&set, n);
    }
    if (::sigprocmask(SIG_BLOCK, &set, nullptr) != 0) {
        return std::unexpected(base::os_error("cannot block signals"));
    }
    base::unique_fd in(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!in) {
        return std::unexpected(base::os_error("no descriptor for signals"));
    }
    void* at = ::mmap(nullptr, sizeof(board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        return std::unexpected(base::os_error("no memory for the keeper's board"));
    }
    auto held = before ? custody::adopt(before->take_ledger(), before->answer().entries, s.entries)
                       : custody::make(s.entries);
    if (!held) {
        return std::unexpected(held.error());
    }
    keeper k(std::move(s), std::move(manager), std::move(v), page, new (at) board, std::move(*held), std::move(in),
             std::move(before));
    k._helpers = std::move(helpers);
    k._last_word.reserve(word_bytes);
    return k;
}

keeper::keeper(settings s, supervisor manager, voice v, shm::stats_page& page, board* b, class custody c,
               base::unique_fd signals, std::optional<predecessor> before)
    : _set(std::move(s)),
      _manager(std::move(manager)),
      _voice(std::make_shared<const voice>(std::move(v))),
      _page(page),
      _board(b),
      _custody(std::move(c)),
      _next(std::move(_set.offer), _voice),
      _before(std::move(before)),
      _signals(std::move(signals)),
      _watch(_set.shards, _set.watchdog_ms) {}

std::optional<seat> keeper::run() {
    for (bool goes_on = true; goes_on;) {
        if (auto worker_s = start_worker()) {
            return worker_s;
        }
        if (!_worker.runs()) {
            goes_on = goes_on_after(W_EXITCODE(killed_exit, 0));
            continue;
        }
        const int status = attend();
        _worker.has_ended();
        _page.worker.pid.set(0);
        if (_next.is_between()) {
            goes_on = !give_all();
        } else {
            goes_on = goes_on_after(status);
        }
    }
    return std::nullopt;
}

// In a worker: its seat.
std::optional<seat> keeper::start_worker() {
    const bool first = !_started_ms && !_before;
    const uint64_t reloads = _board->reloads, sessions = _board->sessions;
    const uint32_t drains_since_s = _board->drains_since_s;
    new (_board) board;
    _board->reloads = reloads;
    _board->sessions = sessions;
    _board->drains_since_s = drains_since_s;
    _watch.forget();
    if (_started_ms) {
        _page.forget();
        ++_page.worker.restarts;
    }
    const bool follows = _started_ms.has_value();
    _ready_ms.reset();
    _kill_at_ms.reset();
    _killed = _worker_rests = false;
    _started_ms = base::now_ms();
    if (follows) {
        _kill_at_ms = *_started_ms + start_limit_ms;
    }
    auto started = _worker.start();
    if (!started) {
        _voice->say("no worker can be started: {}", started.error().text.view());
        return std::nullopt;
    }
    if (*started) {
        _signals.reset();  // the helpers' stay: they act once keeper and worker are gone
        _next.forget();
        _next.helper_ended();  // nor are their sockets its
        if (_before) {
            _before->forget();
        }
        return seat{*_board,
                    supervisor::through(std::move((*started)->words), _manager.watchdog()),
                    std::move((*started)->orders),
                    first,
                    _pauses.blamed() >= suspect_after,
                    std::move((*started)->custody),
                    _custody.ledger(),
                    _custody.held(),
                    _before.has_value()};
    }
    _page.worker.pid.set(uint64_t(_worker.pid()));
    _looked_ms = base::now_ms();
    return std::nullopt;
}

// Until it has ended: how.
int keeper::attend() {
    for (;;) {
        if (const auto status = reap()) {
            take_words();
            while (!_before && _custody.receive(_worker.custody(), custody_at_once, false)) {
            }
            return *status;
        }
        const int64_t now = base::now_ms();
        if (_kill_at_ms && now >= *_kill_at_ms) {
            if (!_stop && !_ready_ms) {
                _voice->say("the worker was not ready after {} ms; it is killed", start_limit_ms);
            } else if (_stop) {
                _voice->say("the worker has not stopped; it is killed");
            }
            _worker.kill();
            _killed = true;
            _kill_at_ms.reset();
        }
        look_at_hearts(now);
        attend_successor(now);
        wait(next_look_ms(now), false);
    }
}

int64_t keeper::next_look_ms(int64_t now_ms) const noexcept {
    int64_t most = idle_look_ms;
    if (_watch.interval_ms() != 0) {
        most = std::min(most, _watch.interval_ms());
    }
    if (_kill_at_ms) {
        most = std::min(most, std::max<int64_t>(*_kill_at_ms - now_ms, 0));
    }
    if (const auto until_ms = _next.until_ms()) {
        most = std::min(most, std::max<int64_t>(*until_ms - now_ms, 0));
    }
    return most;
}

// The helpers are children, too.
std::optional<int> keeper::reap() {
    int status = 0;
    for (pid_t pid; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid == _worker.pid()) {
            return status;
        }
        _next.helper_ended();
    }
    return std::nullopt;
}

void keeper::wait(int64_t ms, bool away) {
    pollfd fds[] = {{_signals.get(), POLLIN, 0},
                    {_worker.words(), POLLIN, 0},
                    {away ? _set.control : -1, POLLIN, 0},
                    {_before ? -1 : _worker.custody(), POLLIN, 0},  // nothing is closed as long as another answers
                    {},
                    {},
                    {},
                    {}};
    poll_for_upgrade(std::span(fds).last<upgrade_polls>());
    if (::poll(fds, std::size(fds), int(ms)) <= 0) {
        pass_on({});
        return;
    }
    take_signals();
    if (fds[1].revents != 0) {
        take_words();
    }
    if (fds[2].revents != 0) {
        turn_away();
    }
    if (fds[3].revents != 0) {
        const bool more = _custody.receive(_worker.custody(), custody_at_once, true);
        if (!more && (fds[3].revents & POLLHUP) != 0) {
            _worker.close_custody();  // it is about to end
        }
    }
    take_upgrade(std::span(fds).last<upgrade_polls>());
}

void keeper::take_signals() {
    signalfd_siginfo info;
    while (::read(_signals.get(), &info, sizeof info) == sizeof info) {
        take_signal(int(info.ssi_signo));
    }
}

void keeper::take_signal(int number) {
    if (number == SIGCHLD) {
        return;
    }
    if (is_later(number)) {
        return;
    }
    if (number != SIGHUP) {
        const bool at_once = _stop || number == SIGQUIT;
        if (!std::exchange(_stop, true)) {
            _set.stopping();
        }
        const int64_t limit_ms = _board->stop_limit_ms.load(std::memory_order_relaxed) + stop_grace_ms;
        _kill_at_ms = base::now_ms() + (at_once ? quit_ms : limit_ms);
    }
    _worker.order(number);
}

// What it tells the service manager, which knows the keeper only.
void keeper::take_words() {
    char text[word_bytes];
    ssize_t n = 0;
    while ((n = ::recv(_worker.words(), text, sizeof text, MSG_DONTWAIT)) > 0) {
        const std::string_view word(text, size_t(n));
        if (take_own_word(word)) {
            continue;
        }
        if (word.starts_with("READY=1") && !_ready_ms) {
            _was_ready = true;
            _ready_ms = base::now_ms();
            if (!_stop) {
                _kill_at_ms.reset();
            }
        }
        pass_on(word);
    }
    if (n == 0) {
        _worker.close_words();  // it is about to end
    }
}

// The last word that was not taken is said again: the manager waits for READY=1.
void keeper::pass_on(std::string_view text) {
    if (_before) {
        return;  // it would not listen to this process
    }
    if (!text.empty() && !text.starts_with("WATCHDOG")) {
        _last_word.assign(text.substr(0, word_bytes));
    }
    if (text.starts_with("WATCHDOG") || !_last_word.empty()) {
        const bool taken = _manager.pass_on(_last_word.empty() ? text : std::string_view(_last_word));
        if (taken) {
            _last_word.clear();
        }
    }
}

void keeper::look_at_hearts(int64_t now_ms) {
    const int64_t elapsed_ms = now_ms - std::exchange(_looked_ms, now_ms);
    if (_board->watched.load(std::memory_order_relaxed) == 0 || _stop || (_kill_at_ms && _ready_ms)) {
        _watch.forget();
        return;
    }
    const auto silent = _watch.look(*_board, elapsed_ms);
    if (!silent) {
        return;
    }
    const char state = _worker.state_of(pid_t(_board->shard[*silent].thread.load(std::memory_order_relaxed)));
    if (state == 't') {
        _watch.excuse(*silent);
    } else {
        replace(*silent, state);
    }
}

void keeper::replace(size_t shard, char state) {
    _voice->say(
        "shard {} of the worker (pid {}) has not moved for {} ms (watchdog_ms), its thread is in state {}; it is "
        "killed",
        shard, _worker.pid(), _set.watchdog_ms, state);
    _worker.abort(pid_t(_board->shard[shard].thread.load(std::memory_order_relaxed)));
    _kill_at_ms = base::now_ms() + abort_ms;
}

bool keeper::goes_on_after(int status) {
    const bool in_order = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    _exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : killed_exit;
    if (_before) {
        if (_why.empty()) {
            _why = "its worker " + std::string(end_text(status).view());
        }
        _exit_code = killed_exit;
        return false;
    }
    if (_stop || in_order || (!_was_ready && WIFEXITED(status))) {
        return false;  // it was told to end, or has said why it cannot start
    }
    const end_text how(status);
    const bool by_others = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && !_killed;
    const auto pause_ms = _pauses.after_end(base::now_ms(), _ready_ms, by_others);
    if (!pause_ms) {
        _exit_code = killed_exit;
        _voice->say("the worker {}; workers end too often, so vmsgrd ends, too; see what they wrote before",
                    how.view());
        return false;
    }
    _voice->say("the worker {}; the next one starts in {} ms", how.view(), *pause_ms);
    pass_on("STATUS=a worker has ended; the next one starts");
    return pause(*pause_ms);
}

bool keeper::pause(int64_t ms) {
    const int64_t until = base::now_ms() + ms;
    for (int64_t now = 0; !_stop && (now = base::now_ms()) < until;) {
        wait(until - now, ms > short_pause_ms);
    }
    return !_stop;
}

// They would wait for an answer in vain; as it is, they find at once that nobody is there.
void keeper::turn_away() const noexcept {
    for (int i = 0; i < turned_away_at_once; ++i) {
        const base::unique_fd fd(::accept4(_set.control, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!fd) {
            return;
        }
    }
}

}  // namespace vmsgr::keeper
