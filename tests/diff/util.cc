// Small things that scenarios share: addresses, names, signals, child processes.
#include "sockdiff.hh"

#include <stdio.h>
#include <stdlib.h>

namespace sockdiff {

int endpoint::port() const {
    return ntohs(ss.ss_family == AF_INET ? reinterpret_cast<const sockaddr_in&>(ss).sin_port
                                         : reinterpret_cast<const sockaddr_in6&>(ss).sin6_port);
}

void endpoint::set_port(int port) {
    if (ss.ss_family == AF_INET)
        reinterpret_cast<sockaddr_in&>(ss).sin_port = htons(port);
    else
        reinterpret_cast<sockaddr_in6&>(ss).sin6_port = htons(port);
}

std::string endpoint::host() const {
    char buf[INET6_ADDRSTRLEN] = "?";
    if (ss.ss_family == AF_INET)
        inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in&>(ss).sin_addr, buf, sizeof buf);
    if (ss.ss_family == AF_INET6)
        inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6&>(ss).sin6_addr, buf, sizeof buf);
    return buf;
}

bool endpoint::operator==(const endpoint& o) const {
    return family() == o.family() && len == o.len && port() == o.port() && host() == o.host();
}

endpoint make_endpoint(int family, const char* host, int port) {
    endpoint e;
    e.ss.ss_family = family;
    if (family == AF_INET) {
        e.len = sizeof(sockaddr_in);
        inet_pton(AF_INET, host, &reinterpret_cast<sockaddr_in&>(e.ss).sin_addr);
    } else {
        e.len = sizeof(sockaddr_in6);
        inet_pton(AF_INET6, host, &reinterpret_cast<sockaddr_in6&>(e.ss).sin6_addr);
    }
    e.set_port(port);
    return e;
}

endpoint name_of(int fd) {
    endpoint e;
    if (getsockname(fd, e.sa(), &e.len) < 0)
        e.len = 0;
    return e;
}
endpoint peer_of(int fd) {
    endpoint e;
    if (getpeername(fd, e.sa(), &e.len) < 0)
        e.len = 0;
    return e;
}

std::string errno_name(int e) {
    const char* s = strerrorname_np(e);
    return s ? s : std::format("errno {}", e);
}

std::string poll_mask(unsigned mask) {
    static constexpr std::pair<unsigned, const char*> names[] = {
        {EPOLLIN, "IN"},         {EPOLLPRI, "PRI"},       {EPOLLOUT, "OUT"},       {EPOLLERR, "ERR"},
        {EPOLLHUP, "HUP"},       {POLLNVAL, "NVAL"},      {EPOLLRDNORM, "RDNORM"}, {EPOLLRDBAND, "RDBAND"},
        {EPOLLWRNORM, "WRNORM"}, {EPOLLWRBAND, "WRBAND"}, {EPOLLRDHUP, "RDHUP"}};
    std::string s;
    for (auto [bit, name] : names) {
        if (mask & bit)
            s += (s.empty() ? "" : "|") + std::string(name);
        mask &= ~bit;
    }
    if (mask)
        s += std::format("|{:#x}", mask);
    return s.empty() ? "0" : s;
}

std::string shown(std::string_view s) {
    std::string out = "\"";
    for (char c : s.substr(0, 48)) {
        if (c >= ' ' && c < 127)
            out += c;
        else
            out += std::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
    out += '"';
    if (s.size() > 48)
        out += std::format("... {} bytes, hash {:x}", s.size(), hash_more(0, s.data(), s.size()));
    return out;
}

void nap(int ms) {
    timespec t{ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&t, &t) < 0 && errno == EINTR) {
    }
}

std::string pattern(size_t bytes, unsigned seed) {
    std::string s(bytes, '\0');
    uint64_t x = seed * 0x9E3779B97F4A7C15ull + 1;
    for (auto& c : s) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        c = static_cast<char>(x >> 32);
    }
    return s;
}

uint64_t hash_more(uint64_t h, const void* data, size_t n) {
    auto p = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001B3ull + 7;
    return h;
}

void fill_up(int fd) {
    std::string b(1 << 16, 'x');
    double limit = now_s() + 3;
    for (double end = now_s() + 0.3; now_s() < end && now_s() < limit; nap(5)) {
        // Windows and buffers grow for a while, and a window probe (every 0.2 s) may find room.
        while (send(fd, b.data(), b.size(), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
            end = now_s() + 0.3;
    }
}

void drain(int fd, int quiet_ms) {
    std::string b(1 << 16, 0);
    for (double end = now_s() + quiet_ms / 1000.0; now_s() < end;) {
        long n = recv(fd, b.data(), b.size(), MSG_DONTWAIT);
        if (n > 0)
            end = now_s() + quiet_ms / 1000.0;
        else if (n < 0 && errno == EAGAIN)
            nap(2);
        else
            break;
    }
}

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// --- signals -------------------------------------------------------------------------------------

static std::atomic<int> seen[65];

static void count_signal(int sig) { seen[sig]++; }

void catch_signal(int sig, bool restart) {
    struct sigaction sa{};
    sa.sa_handler = count_signal;
    sa.sa_flags = restart ? SA_RESTART : 0;
    sigaction(sig, &sa, nullptr);
}
int signals_seen(int sig) { return seen[sig]; }

ticking::ticking(int every_ms, bool restart) {
    catch_signal(SIGALRM, restart);
    itimerval t{{0, every_ms * 1000}, {0, every_ms * 1000}};
    setitimer(ITIMER_REAL, &t, nullptr);
}
ticking::~ticking() {
    itimerval t{};
    setitimer(ITIMER_REAL, &t, nullptr);
}

int my_tid() { return static_cast<int>(syscall(SYS_gettid)); }

void wait_until_blocked(const std::atomic<int>& tid) {
    double end = now_s() + 1.0;
    while (tid == 0 && now_s() < end)
        nap(1);
    std::string path = std::format("/proc/self/task/{}/stat", tid.load());
    end = now_s() + 0.3;
    for (int asleep = 0; asleep < 4 && now_s() < end; nap(5)) {
        FILE* f = fopen(path.c_str(), "r");
        char state = 'X';
        if (f) {
            if (fscanf(f, "%*d %*s %c", &state) != 1)
                state = 'X';
            fclose(f);
        }
        asleep = state == 'S' ? asleep + 1 : 0;
    }
}

// --- processes -----------------------------------------------------------------------------------

child_process::child_process(const std::function<void()>& in_child) {
    pid = fork();
    if (pid == 0) {
        in_child();
        _exit(0);
    }
}

std::string child_process::wait() const {
    int st = 0;
    while (waitpid(pid, &st, 0) < 0) {
        if (errno != EINTR)
            return "wait " + errno_name(errno);
    }
    if (WIFSIGNALED(st))
        return std::format("signal {}", WTERMSIG(st));
    return std::format("exit {}", WEXITSTATUS(st));
}

gate::gate() {
    if (syscall(SYS_pipe2, p, 0) < 0)
        _exit(5);
}
void gate::open() const { syscall(SYS_write, p[1], "x", 1); }
void gate::wait() const {
    char c;
    while (syscall(SYS_read, p[0], &c, 1) < 0 && errno == EINTR) {
    }
}

std::string self_path() {
    char buf[4096];
    long n = readlink("/proc/self/exe", buf, sizeof buf);
    return std::string(buf, n > 0 ? n : 0);
}

// --- table ---------------------------------------------------------------------------------------

scenario& table::add(std::string name, body server, body client) {
    all.push_back({std::move(name), std::move(server), std::move(client)});
    return all.back();
}

void table::pair(const std::string& name, const pair_body& subject, const pair_body& peer, int timeout_ms) {
    auto as = [](pair_body b) {
        return [b](role& r) {
            int fd = r.pair();
            b(r, fd);
            r.meet();
        };
    };
    add(name + "@c", as(peer), as(subject)).timeout(timeout_ms);
    add(name + "@s", as(subject), as(peer)).timeout(timeout_ms);
}

}  // namespace sockdiff
