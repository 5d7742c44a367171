#include "keeper/predecessor.hh"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/clock.hh"

namespace vmsgr::keeper {

namespace {

constexpr int answer_ms = 5000, reload_ms = 60'000;
constexpr size_t fixed_descriptors = 6;
constexpr timeval patience{.tv_sec = 5, .tv_usec = 0};

base::result<base::unique_fd> connect_to(const std::string& path) {
    sockaddr_un un{};
    const socklen_t len = unix_address(path, un);
    base::unique_fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (len == 0 || !fd) {
        return base::fail(len == 0 ? ENAMETOOLONG : errno, "no socket to ", path);
    }
    ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&un), len) != 0) {
        const int err = errno;
        return err == EACCES ? base::fail(err, "only root and vmsgrd's own user may upgrade it (", path, ")")
                             : base::fail(err, "no vmsgrd that can be upgraded runs here (", path, ": ",
                                          std::string_view(strerror(err)), "); start it without --upgrade");
    }
    return fd;
}

}  // namespace

base::result<predecessor> predecessor::reach(const std::string& path, const char* version, bool if_other) {
    predecessor p;
    auto fd = connect_to(path);
    int ends[2];
    if (!fd || ::pipe2(ends, O_CLOEXEC) != 0) {
        return fd ? std::unexpected(base::os_error("pipe")) : std::unexpected(fd.error());
    }
    p._channel = std::move(*fd);
    const base::unique_fd theirs(ends[0]);
    p._life.reset(ends[1]);
    upgrade_message hello;
    hello.what = upgrade_step::hello;
    std::string_view(version).copy(hello.text, sizeof hello.text - 1);
    hello.ledger_version = ledger_version;
    hello.entry_bytes = sizeof(entry);
    hello.pid = ::getpid();
    hello.if_other = if_other ? 1 : 0;
    own_file(hello.file);
    const int rights[] = {theirs.get()};
    if (int e = send_upgrade(p._channel.get(), hello, rights, 0); e != 0 && e != EPIPE && e != ECONNRESET) {
        return base::fail(e, "the vmsgrd that runs does not listen: ", std::string_view(strerror(e)));
    }
    pollfd polled{p._channel.get(), POLLIN, 0};
    if (::poll(&polled, 1, if_other ? reload_ms : answer_ms) <= 0) {
        return base::fail(ETIMEDOUT, "the vmsgrd that runs does not answer");
    }
    int err = receive_upgrade(p._channel.get(), p._answer, p._given, MSG_DONTWAIT);
    if (err == ECONNRESET) {  // it was refused before it was heard: the refusal lies behind the error
        err = receive_upgrade(p._channel.get(), p._answer, p._given, MSG_DONTWAIT);
    }
    if (err == 0 && p._answer.what == upgrade_step::refusal) {
        return base::fail(EPERM, "no upgrade: ", text_in(p._answer));
    }
    if (err == 0 && p._answer.what == upgrade_step::reloaded) {
        return p;
    }
    const size_t more = (p._answer.has_stats != 0 ? 1U : 0U) + (p._answer.has_metrics != 0 ? 1U : 0U);
    if (err != 0 || p._answer.what != upgrade_step::answer || p._given.size() != fixed_descriptors + more) {
        return base::fail(EPROTO, "the vmsgrd that runs does not let this process upgrade it; see its log");
    }
    p._answer.config[sizeof p._answer.config - 1] = 0;
    p._answer.manager[sizeof p._answer.manager - 1] = 0;
    return p;
}

base::unique_fd predecessor::take_stats() noexcept {
    return _answer.has_stats != 0 ? std::move(_given[fixed_descriptors]) : base::unique_fd();
}

base::unique_fd predecessor::take_metrics() noexcept {
    return _answer.has_metrics != 0 ? std::move(_given.back()) : base::unique_fd();
}

void predecessor::take_stdio() noexcept {
    for (int n : {0, 1, 2}) {
        ::dup2(_given[size_t(3 + n)].get(), n);
        _given[size_t(3 + n)].reset();
    }
    struct stat st{};
    if (::getenv("JOURNAL_STREAM") != nullptr && ::fstat(STDERR_FILENO, &st) == 0 && S_ISSOCK(st.st_mode)) {
        ::setenv("JOURNAL_STREAM", (std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino)).c_str(), 1);
    }
}

supervisor predecessor::manager() const {
    return supervisor::at(_answer.manager, std::chrono::microseconds(_answer.watchdog_us));
}

void predecessor::worker_stands_by() noexcept {
    upgrade_message m;
    m.what = upgrade_step::standby;
    (void)send_upgrade(_channel.get(), m, {}, MSG_DONTWAIT);
    _at = phase::stands_by;
}

void predecessor::worker_is_ready() noexcept {
    if (!_channel) {
        let_go();
        return;
    }
    upgrade_message m;
    m.what = upgrade_step::ready;
    (void)send_upgrade(_channel.get(), m, {}, MSG_DONTWAIT);
    _at = phase::has_all;
}

void predecessor::let_go() noexcept {
    _channel.reset();
    _life.reset();
    _at = phase::over;
}

bool predecessor::hear(class custody& c, int worker, board& shown) {
    const int err = receive_upgrade(_channel.get(), _in, _given, MSG_DONTWAIT);
    if (err == EAGAIN) {
        return true;
    }
    if (err != 0) {
        // It has ended. What it gave is enough once it was everything.
        if (_at == phase::has_all) {
            let_go();
        }
        _channel.reset();
        return _at == phase::takes || _at == phase::over;
    }
    if (_at == phase::has_all && _in.what == upgrade_step::yours) {
        let_go();
        return true;
    }
    if (_at != phase::stands_by) {
        return false;
    }
    std::vector<int> rights;
    if (_in.what == upgrade_step::entries) {
        size_t at = 0;
        for (const auto& part : std::span(_in.part).first(std::min<size_t>(_in.count, entries_of_message))) {
            kept fds = none_kept;
            for (uint32_t i = 0; i < part.descriptors && i < kept_fds && at < _given.size(); ++i) {
                fds[i] = _given[at++].release();
                rights.push_back(fds[i]);
            }
            if (!c.put(part.entry, fds)) {
                return false;
            }
        }
        _taken += _in.count;
    } else if (_in.what == upgrade_step::all && _in.count == _taken) {
        _at = phase::takes;
        _all = _in;
        shown.sessions.store(_in.sessions, std::memory_order_relaxed);
        shown.drains_since_s.store(_in.drains_since_s, std::memory_order_relaxed);
    } else {
        return false;
    }
    return send_upgrade(worker, _in, rights, 0) == 0;
}

}  // namespace vmsgr::keeper
