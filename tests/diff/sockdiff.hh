// sockdiff: what a scenario of the differential socket test is written with.
//
// A scenario has two functions, one for the server's and one for the client's process. They print
// observations (`say`, `ret`, ...) and go forward in step (`meet`, `tell`, `hear`), so that what
// they print is the same every time on kernel sockets. Nothing printed may depend on time, port
// numbers, descriptor numbers or buffer sizes. The channel between the two roles and the one to
// the driver use raw system calls: they work even when a preloaded library under test does not.
#pragma once
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <format>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#ifndef EPOLLEXCLUSIVE
#define EPOLLEXCLUSIVE (1u << 28)
#endif

namespace sockdiff {

constexpr int patience_ms = 2000;  // how long an expected event may take
constexpr int settle_ms = 30;      // how long we look for an event that must not come

struct endpoint {
    sockaddr_storage ss{};
    socklen_t len = sizeof(sockaddr_storage);
    sockaddr* sa() { return reinterpret_cast<sockaddr*>(&ss); }
    const sockaddr* sa() const { return reinterpret_cast<const sockaddr*>(&ss); }
    int family() const { return ss.ss_family; }
    int port() const;
    void set_port(int port);
    std::string host() const;
    bool operator==(const endpoint& o) const;
};
endpoint make_endpoint(int family, const char* host, int port);
endpoint name_of(int fd);
endpoint peer_of(int fd);

std::string errno_name(int e);
std::string poll_mask(unsigned mask);     // "IN|OUT", "0" when empty; poll and epoll share the bits
std::string shown(std::string_view s);   // printable, shortened
void nap(int ms);
std::string pattern(size_t bytes, unsigned seed = 1);
void fill_up(int fd);                      // sends until it is full and stays full
void drain(int fd, int quiet_ms = 100);    // receives until nothing has come for so long
uint64_t hash_more(uint64_t h, const void* data, size_t n);
double now_s();

// Signals: counts deliveries.
void catch_signal(int sig, bool restart = false);
int signals_seen(int sig);
// SIGALRM every `every_ms` until destroyed; process-wide.
struct ticking {
    explicit ticking(int every_ms, bool restart);
    ~ticking();
};
// Waits until thread `tid` of this process sleeps in the kernel (or some time has gone, for one
// that spins).
void wait_until_blocked(const std::atomic<int>& tid);
int my_tid();

class role {
public:
    role(bool is_server, int ip_family, int ctl_fd, int sync_fd, unsigned run_id)
        : server(is_server), family(ip_family), ctl(ctl_fd), sync(sync_fd), run(run_id) {}

    const bool server;
    const int family;  // AF_INET or AF_INET6
    int ctl, sync;     // may be moved (closefrom)
    const unsigned run;
    int listen_fd = -1;

    // Observations.
    void line(std::string_view text);
    template <class... A>
    void say(std::format_string<A...> f, A&&... a) {
        line(std::format(f, std::forward<A>(a)...));
    }
    long ret(std::string_view what, long rv);  // the number, or -1 and errno
    long okay(std::string_view what, long rv);                          // "ok", or -1 and errno
    void yes(std::string_view what, bool v) { say("{} {}", what, v ? "yes" : "NO"); }
    long got(std::string_view what, long rv, const void* buf);  // number and bytes, or errno
    long rd(std::string_view what, int fd, size_t n, int flags = 0);    // one recv()
    long wr(std::string_view what, int fd, std::string_view s,
            int flags = MSG_NOSIGNAL);  // one send()

    // In step with the other role.
    void meet();
    void tell(std::string_view text);
    std::string hear();
    void tell_num(long n) { tell(std::to_string(n)); }
    long hear_num() { return std::stol(hear()); }

    // Sockets.
    endpoint loopback(int port = 0) const;
    endpoint wildcard(int port = 0) const;
    int sock(int flags = 0) const { return ::socket(family, SOCK_STREAM | flags, 0); }
    int bound();                          // bound to a free loopback port, not listening
    int listening(int backlog = 16);      // the same, listening; sets listen_fd
    int serve(int backlog = 16);          // listening(), and tells the port
    int dial(int port, int flags = 0);    // connect() to loopback, says so only when it fails
    int dial_briefly(int port);  // the same; its close leaves no TIME_WAIT, of which the kernel keeps so many
    int take(int lfd);  // accept(), says so only when it fails
    int pair();  // both roles: a connected socket
    bool connect_to(int fd, int port);  // connect() to loopback; false, errno kept, when it says so
    int waiting(int backlog = 16);  // listening(), non-blocking
    int accept_late(int lfd);  // accept() of a non-blocking listener once one is there

    // Waiting; silent, except that a time-out is an observation.
    bool until(int fd, short events, int ms = patience_ms);  // all of `events` are shown
    bool bytes(int fd, int n, int ms = patience_ms);  // FIONREAD says n or more
    bool eventually(std::string_view what, const std::function<bool()>& f, int ms = patience_ms);
    // Waiting, then the whole mask is an observation.
    void poll_is(std::string_view what, int fd, short events, short want);
    void poll_now(std::string_view what, int fd, short events);  // after settling
    void put(int fd, std::string_view s);  // sends all; silent
    void get(std::string_view what, int fd, size_t n);  // reads exactly n (or to the end), shows it
    void eof(std::string_view what, int fd);  // waits for readable, one recv

    // epoll; `data` names the descriptor in the output.
    int ep_ctl(std::string_view what, int ep, int op, int fd, uint32_t events, uint64_t data);
    void ep_is(std::string_view what, int ep,
               uint32_t want);  // events until `want` was seen; their union per data
    void ep_now(std::string_view what, int ep);  // events after settling

    int so_error(int fd) const;
    int opt(int fd, int level, int name) const;  // value, or -errno
    [[noreturn]] void give_up(std::string_view why);

private:
    std::string message(char kind);
    void send_sync(std::string_view text);
};

// A child process within a role, reaped by wait().
struct child_process {
    pid_t pid;
    explicit child_process(const std::function<void()>& in_child);
    std::string wait() const;  // "exit 0", "signal 9"
};

// One process of a role tells another that it has come this far. Made before the fork.
struct gate {
    int p[2];
    gate();
    void open() const;
    void wait() const;
};

// What many rounds of the same showed: each different observation, and how often it was made.
class tally {
public:
    void add(std::string seen) { _seen[std::move(seen)]++; }
    void show(role& r, std::string_view what) const;

private:
    std::map<std::string, int> _seen;
};

using body = std::function<void(role&)>;
using pair_body = std::function<void(role&, int fd)>;

struct scenario {
    std::string name;
    body server, client;
    int family = 0;  // 0: both
    int timeout_ms = 5000;
    scenario& only(int f) {
        family = f;
        return *this;
    }
    scenario& timeout(int ms) {
        timeout_ms = ms;
        return *this;
    }
};

class table {
public:
    std::vector<scenario> all;
    scenario& add(std::string name, body server, body client);
    // A connected pair. Once with the client, once with the server as the subject: "name@c" and
    // "name@s". Nobody leaves before both bodies are done.
    void pair(const std::string& name, const pair_body& subject, const pair_body& peer, int timeout_ms = 5000);
};

// Self re-exec: `sockdiff --helper NAME ARGS`.
int helper_main(int argc, char** argv);
std::string self_path();

void add_connect(table&);
void add_connect_states(table&);
void add_shutdown(table&);
void add_reset(table&);
void add_data(table&);
void add_messages(table&);
void add_urgent(table&);
void add_timing(table&);
void add_poll(table&);
void add_epoll(table&);
void add_epoll_edges(table&);
void add_descriptors(table&);
void add_processes(table&);
void add_exec(table&);
void add_accept(table&);
void add_at_once(table&);
void add_queue(table&);
void add_acceptors(table&);
void add_reuseport(table&);
void add_bind(table&);
void add_options(table&);
void add_bulk(table&);
void add_loops(table&);
void add_threads(table&);
void add_files(table&);
void add_others(table&);

}  // namespace sockdiff
