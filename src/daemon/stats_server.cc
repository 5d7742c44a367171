#include "daemon/stats_server.hh"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <list>
#include <nlohmann/json.hpp>
#include <vector>

#include "attach/access.hh"
#include "base/clock.hh"
#include "base/names.hh"
#include "base/process.hh"
#include "daemon/http.hh"
#include "daemon/metrics.hh"
#include "daemon/page_keys.hh"
#include "daemon/stats.hh"
#include "daemon/status_page.hh"

namespace vmsgr::daemon {

namespace {

constexpr size_t status_clients_max = 64, status_clients_of_user_max = 8, metrics_clients_max = 64;
constexpr int64_t client_ms = 5000;     // from its first byte to its last
constexpr int64_t leaving_ms = 1000;    // after its answer
constexpr int64_t accept_pause_ms = 100;
constexpr size_t page_rows_max = 1000;  // of connections on the status page
constexpr int accepts_at_once = 16;  // fewer than clients: who has asked already gets an answer first

struct client {
    base::unique_fd fd;
    bool http;
    attach::peer_identity who{};
    int64_t until_ms;
    std::string in{}, out{};
    size_t sent = 0;
    bool answered = false, leaving = false, ended = false;  // ended: it sends no more
};

class server {
    const stats_reader _from;
    base::unique_fd _daemon_lives;
    stats_sockets _at;
    std::list<client> _status, _metrics;  // the oldest first
    page_keys _keys;
    int64_t _paused_until_ms = 0;

public:
    server(stats_reader from, base::unique_fd lives, stats_sockets at)
        : _from(from), _daemon_lives(std::move(lives)), _at(std::move(at)) {}
    void run();

private:
    void accept_from(int listener, bool http, std::list<client>& among, size_t most);
    void make_room(std::list<client>& among, size_t most, const client& fresh);
    bool serve(client& c, short events);
    bool receive(client& c);
    bool send(client& c);
    void answer_status(client& c);
    void answer_http(client& c);
    std::string page_key(const attach::viewer& to);
    std::string page_document(const client& c, const http_request& request);
    int wait_ms(int64_t now_ms) const;
};

// Nobody is kept waiting by those who say nothing: who has come first goes, of the same user where one has many.
void server::make_room(std::list<client>& among, size_t most, const client& fresh) {
    auto is_his = [&](const client& c) { return c.who.uid == fresh.who.uid; };
    if (!fresh.http && size_t(std::ranges::count_if(among, is_his)) >= status_clients_of_user_max) {
        among.erase(std::ranges::find_if(among, is_his));
    } else if (among.size() >= most) {
        among.pop_front();
    }
}

void server::accept_from(int listener, bool http, std::list<client>& among, size_t most) {
    for (int i = 0; i < accepts_at_once; ++i) {
        client c{.fd = base::unique_fd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)),
                 .http = http,
                 .until_ms = base::now_ms() + client_ms};
        if (!c.fd) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
                _paused_until_ms = base::now_ms() + accept_pause_ms;
            }
            return;
        }
        if (!http) {
            const auto who = attach::identify(c.fd.get());
            if (!who || !attach::may_attach(_from.access(), c.fd.get(), *who)) {
                continue;
            }
            c.who = *who;
        }
        make_room(among, most, c);
        among.push_back(std::move(c));
    }
}

void server::answer_status(client& c) {
    const auto line = std::string_view(c.in).substr(0, c.in.find('\n'));
    const auto viewer = attach::viewer_at(_from.access(), c.fd.get(), c.who);
    if (line == "health" || line == "status") {
        c.out = stats_document(_from, viewer, line == "status");
    } else if (line == "page") {
        c.out = page_key(viewer);
    }
    c.answered = true;
}

// Where the page is, as a browser on this host reaches it.
std::string server::page_key(const attach::viewer& to) {
    if (!_at.metrics) {
        return nlohmann::json{{"error", "the status page needs metrics.listen in the configuration; see vmsgrd(8)"}}
            .dump();
    }
    auto at = base::local_name(_at.metrics.get());
    if (at.is_any()) {
        at = base::loopback(at.family, at.port);
    }
    const nlohmann::json out{{"address", base::to_string(at)}, {"key", _keys.give(to, _from.access(), base::now_ms())}};
    return out.dump();
}

// A key is for this host: on a network everybody on the way could read it.
std::string server::page_document(const client& c, const http_request& request) {
    auto mine = base::local_name(c.fd.get()), theirs = base::peer_name(c.fd.get());
    mine.port = theirs.port = 0;
    if (mine != theirs) {
        return http_answer({.status = 403}, "the status page is for browsers on this host; see vmsgr page --help\n",
                           request.head);
    }
    const auto viewer = _keys.owner(request.key, _from.access(), base::now_ms());
    if (!viewer) {
        return http_answer({.status = 401}, "no key, or none any more; `vmsgr page` gives one\n", request.head);
    }
    return http_answer({.type = "application/json"}, stats_document(_from, *viewer, true, page_rows_max), request.head);
}

void server::answer_http(client& c) {
    const auto request = read_http_request(c.in);
    if (!request) {
        return;
    }
    if (request->error != 0) {
        c.out = http_answer({.status = request->error}, "", false);
    } else if (request->path == "/metrics") {
        c.out = http_answer({.type = metrics_type}, metrics_text(_from), request->head);
    } else if (request->path == "/") {
        const auto page = make_status_page();
        c.out = http_answer({.type = page_type, .policy = page.policy}, page.html, request->head);
    } else if (request->path == "/status.json") {
        c.out = page_document(c, *request);
    } else {
        c.out = http_answer({.status = 404}, "the metrics are at /metrics, the status page at /\n", request->head);
    }
    c.answered = true;
}

// False: it is over; also where there is no memory for its answer.
bool server::serve(client& c, short events) try {
    if ((events & POLLIN) != 0 ? !receive(c) : (events & (POLLHUP | POLLERR)) != 0) {
        return false;
    }
    return !c.answered || c.leaving || send(c);
} catch (const std::exception&) {
    return false;
}

bool server::receive(client& c) {
    char buffer[4096];
    const ssize_t n = ::recv(c.fd.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    if (n == 0) {
        c.ended = true;
        return c.answered && !c.leaving;
    }
    if (c.answered) {
        return true;  // thrown away, so that the end is no reset
    }
    c.in.append(buffer, size_t(n));
    if (c.http) {
        answer_http(c);
    } else if (c.in.contains('\n') || c.in.size() > 64) {
        answer_status(c);
    }
    return true;
}

bool server::send(client& c) {
    while (c.sent < c.out.size()) {
        const ssize_t n = ::send(c.fd.get(), c.out.data() + c.sent, c.out.size() - c.sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n <= 0) {
            return n < 0 && (errno == EAGAIN || errno == EINTR);
        }
        c.sent += size_t(n);
    }
    ::shutdown(c.fd.get(), SHUT_WR);
    c.leaving = true;
    c.until_ms = std::min(c.until_ms, base::now_ms() + leaving_ms);
    return true;
}

int server::wait_ms(int64_t now_ms) const {
    int64_t until = now_ms + 60'000;
    for (auto* list : {&_status, &_metrics}) {
        for (auto& c : *list) {
            until = std::min(until, c.until_ms);
        }
    }
    if (_paused_until_ms > now_ms) {
        until = std::min(until, _paused_until_ms);
    }
    return int(std::max<int64_t>(0, until - now_ms)) + 1;
}

void server::run() {
    std::vector<pollfd> polled;
    while (true) {
        const int64_t before = base::now_ms();
        const bool paused = _paused_until_ms > before;
        polled.clear();
        polled.push_back({_daemon_lives.get(), POLLIN, 0});
        polled.push_back({paused ? -1 : _at.status.get(), POLLIN, 0});
        polled.push_back({paused || !_at.metrics ? -1 : _at.metrics.get(), POLLIN, 0});
        for (auto* list : {&_status, &_metrics}) {
            for (auto& c : *list) {
                const bool sends = c.answered && !c.leaving;
                polled.push_back({c.fd.get(), short((c.ended ? 0 : POLLIN) | (sends ? POLLOUT : 0)), 0});
            }
        }
        if (::poll(polled.data(), polled.size(), wait_ms(before)) < 0 && errno != EINTR) {
            return;
        }
        if (polled[0].revents != 0) {
            return;  // the daemon has ended
        }
        const int64_t now = base::now_ms();
        size_t i = 3;
        for (auto* list : {&_status, &_metrics}) {
            for (auto at = list->begin(); at != list->end();) {
                const short events = polled[i++].revents;
                at = (events == 0 || serve(*at, events)) && at->until_ms > now ? std::next(at) : list->erase(at);
            }
        }
        if (polled[1].revents != 0) {
            accept_from(_at.status.get(), false, _status, status_clients_max);
        }
        if (polled[2].revents != 0) {
            accept_from(_at.metrics.get(), true, _metrics, metrics_clients_max);
        }
    }
}

[[noreturn]] void serve_stats(base::unique_fd lives, shm::new_page& written, pid_t daemon, stats_sockets sockets,
                              bool waits) noexcept {
    const int page = written.fd.get();
    const size_t bytes = written.memory.size();
    written.memory = {};  // only the daemon writes it
    ::prctl(PR_SET_NAME, "vmsgrd-stats");
    for (int s : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE}) {
        ::signal(s, SIG_IGN);  // sent to the whole group; the daemon's end is what counts
    }
    // Nobody waits for the end of an output of ours.
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd : {0, 1, 2}) {
        ::dup2(null, fd);
    }
    std::array kept{lives.get(), page, sockets.status.get(), sockets.metrics.get()};
    std::ranges::sort(kept);
    unsigned from = 3;
    for (int fd : kept) {
        if (fd >= 3) {
            if (unsigned(fd) > from) {
                ::close_range(from, unsigned(fd) - 1, 0);
            }
            from = unsigned(fd) + 1;
        }
    }
    ::close_range(from, ~0U, 0);
    char byte;
    while (waits && ::read(lives.get(), &byte, 1) < 0 && errno == EINTR) {
    }
    try {
        const auto memory = shm::map_published(page, bytes);
        if (memory) {
            const auto& at = *reinterpret_cast<const shm::stats_page*>(memory->data());
            server(stats_reader(&at, daemon), std::move(lives), std::move(sockets)).run();
        }
    } catch (const std::exception&) {
        // Out of memory: status asks the daemon itself, and a scrape fails.
    }
    ::_exit(0);
}

}  // namespace

base::result<base::unique_fd> listen_for_metrics(const base::address& at) {
    base::unique_fd fd;
    if (at.family == 0) {
        return fd;
    }
    sockaddr_storage ss;
    const socklen_t len = base::to_sockaddr(at, ss);
    const int on = 1;
    fd.reset(::socket(at.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&ss), len) != 0 || ::listen(fd.get(), SOMAXCONN) != 0) {
        const auto why = base::os_error("metrics.listen: cannot listen on " + base::to_string(at));
        return base::fail(why.errnum, why.text + "; choose another port, or leave out `metrics`");
    }
    return fd;
}

base::result<base::unique_fd> start_stats_server(shm::new_page& page, stats_sockets sockets, bool waits) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) {
        return std::unexpected(base::os_error("pipe"));
    }
    base::unique_fd theirs(ends[0]), ours(ends[1]);
    const pid_t daemon = ::getpid();
    const auto pid = base::fork_process();
    if (!pid) {
        return std::unexpected(pid.error());
    }
    if (*pid == 0) {
        serve_stats(std::move(theirs), page, daemon, std::move(sockets), waits);
    }
    return ours;
}

}  // namespace vmsgr::daemon
