// The role's side of sockdiff: observations, the channel between the roles, waiting.
#include "sockdiff.hh"

namespace sockdiff {

// --- observations --------------------------------------------------------------------------------

void role::line(std::string_view text) {
    std::string m = std::format("L {} {}", run, text);
    while (syscall(SYS_write, ctl, m.data(), m.size()) < 0 && errno == EINTR) {
    }
}

long role::ret(std::string_view what, long rv) {
    int e = errno;
    if (rv < 0)
        say("{} -> {} {}", what, rv, errno_name(e));
    else
        say("{} -> {}", what, rv);
    errno = e;
    return rv;
}

long role::okay(std::string_view what, long rv) {
    int e = errno;
    if (rv < 0)
        say("{} -> {} {}", what, rv, errno_name(e));
    else
        say("{} -> ok", what);
    errno = e;
    return rv;
}

long role::got(std::string_view what, long rv, const void* buf) {
    int e = errno;
    if (rv < 0)
        say("{} -> {} {}", what, rv, errno_name(e));
    else
        say("{} -> {} {}", what, rv, shown({static_cast<const char*>(buf), static_cast<size_t>(rv)}));
    errno = e;
    return rv;
}

long role::rd(std::string_view what, int fd, size_t n, int flags) {
    std::string buf(n, '\0');
    return got(what, ::recv(fd, buf.data(), n, flags), buf.data());
}

long role::wr(std::string_view what, int fd, std::string_view s, int flags) {
    return ret(what, ::send(fd, s.data(), s.size(), flags));
}

void role::give_up(std::string_view why) {
    line(why);
    _exit(3);
}

void tally::show(role& r, std::string_view what) const {
    std::string text;
    for (auto& [seen, times] : _seen)
        text += std::format("{}{} x {}", text.empty() ? "" : ", ", seen, times);
    r.say("{}: {}", what, text);
}

// --- in step -------------------------------------------------------------------------------------

void role::send_sync(std::string_view text) {
    std::string m = std::format("{} {}", run, text);
    while (syscall(SYS_write, sync, m.data(), m.size()) < 0) {
        if (errno != EINTR)
            give_up("SYNC BROKEN");
    }
}

std::string role::message(char kind) {
    for (;;) {
        char buf[4096];
        long n = syscall(SYS_read, sync, buf, sizeof buf);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            give_up("SYNC BROKEN");
        std::string m(buf, n);
        auto space = m.find(' ');
        if (std::stoul(m) != run)
            continue;  // left over from an earlier scenario
        m.erase(0, space + 1);
        if (m[0] == 'X')
            give_up("PEER GONE");
        if (m[0] != kind)
            give_up(std::format("SYNC MISMATCH: wanted {}, got {}", kind, m));
        return m.substr(1);
    }
}

void role::meet() {
    send_sync("B");
    message('B');
}
void role::tell(std::string_view text) { send_sync("T" + std::string(text)); }
std::string role::hear() { return message('T'); }

// --- sockets -------------------------------------------------------------------------------------

endpoint role::loopback(int port) const { return make_endpoint(family, family == AF_INET ? "127.0.0.1" : "::1", port); }
endpoint role::wildcard(int port) const { return make_endpoint(family, family == AF_INET ? "0.0.0.0" : "::", port); }

int role::bound() {
    int fd = sock();
    auto a = loopback();
    if (fd < 0 || ::bind(fd, a.sa(), a.len) < 0)
        give_up("BIND FAILED " + errno_name(errno));
    return fd;
}

int role::listening(int backlog) {
    listen_fd = bound();
    if (::listen(listen_fd, backlog) < 0)
        give_up("LISTEN FAILED " + errno_name(errno));
    return listen_fd;
}

int role::serve(int backlog) {
    int fd = listening(backlog);
    tell_num(name_of(fd).port());
    return fd;
}

int role::dial(int port, int flags) {
    int fd = sock(flags);
    auto a = loopback(port);
    if (::connect(fd, a.sa(), a.len) < 0 && errno != EINPROGRESS)
        okay("dial", -1);
    return fd;
}

int role::dial_briefly(int port) {
    int fd = dial(port);
    struct linger l{1, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    return fd;
}

int role::take(int lfd) {
    int fd = ::accept(lfd, nullptr, nullptr);
    if (fd < 0)
        okay("take", fd);
    return fd;
}

int role::pair() {
    int fd;
    if (server)
        fd = take(serve());
    else
        fd = dial(hear_num());
    meet();
    return fd;
}

bool role::connect_to(int fd, int port) {
    auto a = loopback(port);
    return ::connect(fd, a.sa(), a.len) == 0;
}

int role::waiting(int backlog) {
    int fd = listening(backlog);
    ::fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

int role::accept_late(int lfd) {
    if (!until(lfd, POLLIN))
        give_up("NO CONNECTION CAME");
    return take(lfd);
}

int role::so_error(int fd) const { return opt(fd, SOL_SOCKET, SO_ERROR); }
int role::opt(int fd, int level, int name) const {
    int v = -1;
    socklen_t n = sizeof v;
    return ::getsockopt(fd, level, name, &v, &n) < 0 ? -errno : v;
}

// --- waiting -------------------------------------------------------------------------------------

bool role::eventually(std::string_view what, const std::function<bool()>& f, int ms) {
    for (double end = now_s() + ms / 1000.0;;) {
        if (f())
            return true;
        if (now_s() > end)
            break;
        nap(2);
    }
    say("TIMEOUT waiting for {}", what);
    return false;
}

bool role::until(int fd, short events, int ms) {
    pollfd p{fd, events, 0};
    for (double end = now_s() + ms / 1000.0;;) {
        int left = static_cast<int>((end - now_s()) * 1000);
        p.revents = 0;
        int n = ::poll(&p, 1, std::max(left, 0));
        if (n > 0 && (p.revents & events) == events)
            return true;
        if (left <= 0)
            break;
        if (n > 0 || (n < 0 && errno == EINTR))
            nap(1);
    }
    say("TIMEOUT waiting for {}, have {}", poll_mask(events), poll_mask(p.revents));
    return false;
}

bool role::bytes(int fd, int n, int ms) {
    return eventually(std::format("{} bytes", n), [&] {
        int have = -1;
        return ::ioctl(fd, FIONREAD, &have) == 0 && have >= n;
    }, ms);
}

void role::poll_is(std::string_view what, int fd, short events, short want) {
    pollfd p{fd, static_cast<short>(events), 0};
    eventually(std::format("{} ({})", what, poll_mask(want)), [&] {
        p.revents = 0;
        ::poll(&p, 1, 0);
        return (p.revents & want) == want;
    });
    say("{} -> {}", what, poll_mask(p.revents));
}

void role::poll_now(std::string_view what, int fd, short events) {
    nap(settle_ms);
    pollfd p{fd, events, 0};
    int n = ::poll(&p, 1, 0);
    if (n < 0)
        ret(what, n);
    else
        say("{} -> {}", what, poll_mask(p.revents));
}

void role::put(int fd, std::string_view s) {
    while (!s.empty()) {
        long n = ::send(fd, s.data(), s.size(), MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            ret("put", n);
            return;
        }
        s.remove_prefix(n);
    }
}

void role::get(std::string_view what, int fd, size_t n) {
    std::string buf(n, '\0');
    size_t have = 0;
    while (have < n) {
        long k = ::recv(fd, buf.data() + have, n - have, 0);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0 && errno == EAGAIN) {
            if (!until(fd, POLLIN))
                break;
            continue;
        }
        if (k < 0)
            say("{} -> {} then {}", what, shown({buf.data(), have}), errno_name(errno));
        if (k < 0)
            return;
        if (k == 0)
            break;
        have += k;
    }
    say("{} -> {}{}", what, shown({buf.data(), have}), have < n ? " then end" : "");
}

void role::eof(std::string_view what, int fd) {
    until(fd, POLLIN);
    rd(what, fd, 64);
}

// --- epoll ---------------------------------------------------------------------------------------

int role::ep_ctl(std::string_view what, int ep, int op, int fd, uint32_t events, uint64_t data) {
    epoll_event e{};
    e.events = events;
    e.data.u64 = data;
    int rv = ::epoll_ctl(ep, op, fd, &e);
    if (!what.empty() || rv < 0)
        okay(what.empty() ? "epoll_ctl" : what, rv);
    return rv;
}

namespace {
using event_map = std::vector<std::pair<uint64_t, uint32_t>>;

void collect(int ep, int timeout_ms, event_map& into) {
    epoll_event ev[16];
    int n = ::epoll_wait(ep, ev, 16, timeout_ms);
    for (int i = 0; i < n; i++) {
        uint64_t data = ev[i].data.u64;
        auto it = into.begin();
        while (it != into.end() && it->first < data)
            ++it;
        if (it == into.end() || it->first != data)
            it = into.insert(it, {data, 0u});
        it->second |= ev[i].events;
    }
}

std::string show(const event_map& m) {
    if (m.empty())
        return "none";
    std::string s;
    for (auto& [data, mask] : m)
        s += std::format("{}{}:{}", s.empty() ? "" : " ", data, poll_mask(mask));
    return s;
}
}  // namespace

void role::ep_is(std::string_view what, int ep, uint32_t want) {
    event_map seen;
    eventually(std::format("{} ({})", what, poll_mask(want)), [&] {
        collect(ep, 0, seen);
        uint32_t all = 0;
        for (auto& [data, mask] : seen)
            all |= mask;
        return (all & want) == want;
    });
    say("{} -> {}", what, show(seen));
}

void role::ep_now(std::string_view what, int ep) {
    nap(settle_ms);
    event_map seen;
    collect(ep, 0, seen);
    say("{} -> {}", what, show(seen));
}

}  // namespace sockdiff
