#include "keeper/successor.hh"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/clock.hh"
#include "base/process.hh"
#include "base/sockets.hh"

namespace vmsgr::keeper {

namespace {

constexpr int64_t prepare_ms = 5000;
// The worker's own limits are far shorter; what it has not handed over when it is killed is lost.
constexpr int64_t rest_ms = 1000;
constexpr int64_t take_ms = 2000;
constexpr int messages_at_once = 64;

bool is_in_our_group(pid_t pid) noexcept {
    std::array<char, 1024> ours, theirs;
    const pid_t self = ::getpid();
    const auto mine = base::read_of_thread(self, uint64_t(self), "cgroup", ours);
    return !mine.empty() && mine == base::read_of_thread(pid, uint64_t(pid), "cgroup", theirs);
}

template <size_t N>
void put(char (&to)[N], std::string_view text) noexcept {
    memset(to, 0, N);
    text.copy(to, N - 1);
}

}  // namespace

successor::successor(upgrade_offer o, std::shared_ptr<const voice> v) : _offer(std::move(o)), _voice(std::move(v)) {
    _got.reserve(descriptors_of_message);
    _rights.reserve(descriptors_of_message);
}

void successor::forget() noexcept {
    _channel.reset();
    _life.reset();
    _process.reset();
}

void successor::helper_ended() noexcept {
    _offer.stats.reset();
    _offer.metrics.reset();
}

void successor::accept(const char* busy) {
    base::unique_fd fd(::accept4(_offer.listening, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    const auto who = fd ? base::peer_credentials(fd.get()) : std::nullopt;
    if (!who || (who->uid != 0 && who->uid != ::geteuid())) {
        return;
    }
    if (busy != nullptr || _at != phase::none) {
        refuse_upgrade(fd.get(), busy != nullptr ? busy : "another upgrade is under way; wait for its end");
        return;
    }
    _process.reset(int(::syscall(SYS_pidfd_open, who->pid, 0)));
    if (!_process) {
        refuse_upgrade(fd.get(), "this vmsgrd cannot watch the new one (pidfd_open)");
        return;
    }
    _channel = std::move(fd);
    _pid = who->pid;
    _until_ms = base::now_ms() + prepare_ms;
    _at = phase::prepares;
}

// Null: what has said hello may take over.
const char* successor::why_not(const supervisor& manager) const {
    if (_in.protocol != upgrade_protocol || _in.what != upgrade_step::hello) {
        return "the vmsgrd that runs upgrades in another way; stop it and start the new one";
    }
    if (_in.ledger_version != ledger_version || _in.entry_bytes != sizeof(entry)) {
        return "the two versions write down what is carried in different ways; stop the one that runs, start the new "
               "one";
    }
    if (!manager.address().empty() && !is_in_our_group(_pid)) {
        return "a service manager runs vmsgrd, and would not know the new one; use `systemctl reload vmsgrd`";
    }
    return _got.size() != 1 ? "it sends no sign of life" : nullptr;
}

bool successor::send(std::span<const int> fds) {
    const int err = send_upgrade(_channel.get(), _out, fds, MSG_DONTWAIT);
    if (err != 0 && err != EAGAIN && err != ETOOMANYREFS) {
        fail("it does not listen");
    }
    return err == 0;
}

void successor::answer(const class custody& c, const supervisor& manager) {
    if (const char* why = why_not(manager)) {
        refuse_upgrade(_channel.get(), why);
        _voice->say("no upgrade by pid {}: {}", _pid, why);
        forget();
        _at = phase::none;
        return;
    }
    _life = std::move(_got.front());
    if (_in.if_other != 0 && _in.file[1] != 0 && std::ranges::equal(_in.file, _offer.file)) {
        _at = phase::reloads;
        return;
    }
    _out = {};
    _out.what = upgrade_step::answer;
    put(_out.text, _offer.version);
    put(_out.config, _offer.config);
    put(_out.manager, manager.address());
    _out.watchdog_us = int32_t(manager.watchdog().count());
    _out.ledger_version = ledger_version;
    _out.entry_bytes = sizeof(entry);
    _out.entries = uint32_t(c.ledger().size());
    _out.held = uint32_t(c.descriptors());
    _out.shards = uint32_t(_offer.shards);
    _out.options = _offer.options;
    _out.registry = ++_offer.registry;  // never the same: programs may have one of a new vmsgrd that has failed
    _out.pid = ::getpid();
    _rights.assign({c.memory(), _offer.control, _offer.listening, 0, 1, 2});
    _out.has_stats = _offer.stats ? 1 : 0;
    _out.has_metrics = _offer.metrics ? 1 : 0;
    for (int fd : {_offer.stats.get(), _offer.metrics.get()}) {
        if (fd >= 0) {
            _rights.push_back(fd);
        }
    }
    _voice->say("vmsgrd {} (pid {}) prepares to take over", std::string_view(_in.text, strnlen(_in.text, 64)), _pid);
    send(_rights);
}

void successor::hear(const class custody& c, const supervisor& manager) {
    const int err = receive_upgrade(_channel.get(), _in, _got, MSG_DONTWAIT);
    if (err == EAGAIN) {
        return;
    }
    if (_at == phase::prepares && !_life && err != ECONNRESET) {
        _in.protocol = err == 0 ? _in.protocol : 0;
        answer(c, manager);
    } else if (err != 0) {
        fail("it has ended");
    } else if (_at == phase::prepares && _in.what == upgrade_step::standby) {
        _at = phase::rests;
        _until_ms = 0;
    } else if (_at == phase::takes && _said_all && _in.what == upgrade_step::ready) {
        _at = phase::has_all;
    } else {
        fail("it does not do what it should");
    }
}

void successor::has_ended() noexcept {
    if (_at != phase::fails && _at != phase::reloads) {
        _voice->say("the new vmsgrd (pid {}) has ended; this one goes on", _pid);
    }
    forget();
    _at = phase::none;
}

std::optional<int64_t> successor::until_ms() const noexcept {
    return _at == phase::prepares || _at == phase::takes || (_at == phase::rests && _until_ms != 0)
               ? std::optional(_until_ms)
               : std::nullopt;
}

void successor::look_at_clock(int64_t now_ms) {
    if (_at == phase::prepares && now_ms >= _until_ms) {
        fail("it was not ready to take over within 5 s");
    } else if (_at == phase::takes && now_ms >= _until_ms) {
        fail("it has not taken over within 2 s");
    }
}

void successor::fail(const char* why) {
    if (_at == phase::none || _at == phase::fails) {
        return;
    }
    _voice->say("no upgrade by pid {}: {}; this vmsgrd goes on", _pid, why);
    refuse_upgrade(_channel.get(), why);
    ::syscall(SYS_pidfd_send_signal, _process.get(), SIGKILL, nullptr, 0);
    _channel.reset();
    _at = phase::fails;
    if (!_life) {
        has_ended();  // it has said nothing yet
    }
}

void successor::has_reloaded(std::string_view status) noexcept {
    if (_at != phase::reloads || _until_ms != 0) {
        return;
    }
    _out = {};
    _out.what = upgrade_step::reloaded;
    put(_out.text, status);
    (void)send_upgrade(_channel.get(), _out, {}, MSG_DONTWAIT);
    forget();
    _at = phase::none;
}

void successor::worker_rests(int64_t now_ms) noexcept { _until_ms = now_ms + rest_ms; }

void successor::worker_is_killed() noexcept {
    _stopped_ns = base::now_ns();
    _at = phase::stops;
}

void successor::go_on_giving(const class custody& c, const board& shown, uint64_t restarts) {
    if (_at == phase::stops) {
        _until_ms = base::now_ms() + take_ms;
        _next_entry = _given = 0;
        _said_all = false;
        _out = {};
        _rights.clear();
        _at = phase::takes;
    }
    give(c, shown, restarts);
}

void successor::give(const class custody& c, const board& shown, uint64_t restarts) {
    for (int i = 0; i < messages_at_once && wants_to_write(); ++i) {
        if (_rights.empty() && fill_entries(c.held(), _next_entry, _out, _rights)) {
            _given += _out.count;
        }
        if (!_rights.empty()) {
            if (!send(_rights)) {
                return;  // later again
            }
            _rights.clear();
            continue;
        }
        _out.what = upgrade_step::all;
        _out.count = _given;
        _out.sessions = shown.sessions;
        _out.drains_since_s = shown.drains_since_s;
        _out.restarts = restarts;
        _out.stopped_ns = _stopped_ns;
        _said_all = send({});
        return;
    }
}

bool successor::let_go(int signal) noexcept {
    _out = {};
    _out.what = upgrade_step::yours;
    _out.stop = uint32_t(signal);
    return send_upgrade(_channel.get(), _out, {}, MSG_DONTWAIT) == 0;
}

}  // namespace vmsgr::keeper
