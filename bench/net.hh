// What the programs of bench_net share: endpoints (tcp:ADDRESS:PORT or unix:PATH), whole writes and reads, clocks.
// A client opens every connection with a request of request_bytes, which says what it wants from `serve`.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <vector>

namespace bench {

struct endpoint {
    sockaddr_storage address{};
    socklen_t length = 0;
};

enum class wish : uint32_t {
    stream = 1,  // messages of `size` bytes, one write() each, until the connection ends
    echo = 2,    // each message back
    once = 3,    // the request itself back, nothing more
};
struct request {
    wish what;
    uint32_t size;
};
inline constexpr size_t request_bytes = 64;
inline constexpr size_t read_bytes = 64 * 1024;
inline constexpr size_t message_bytes_max = 4 << 20;

[[noreturn]] void die(const char* what);                      // with errno
[[noreturn]] void die_text(const char* what);
int checked(int result, const char* what);

endpoint parse_endpoint(const std::string& text);
int listen_on(const endpoint& at, const std::string& congestion);
int connect_to(const endpoint& to);
int accept_from(int listener, int flags);                     // SOCK_NONBLOCK or 0
bool write_all(int fd, const void* data, size_t n);           // false: the other side is gone
bool read_all(int fd, void* data, size_t n);                  // false: end of file, or the other side is gone
void send_request(int fd, wish what, uint32_t size);

double now_s();
double cpu_s();                                               // of this process, user and system
double percentile(std::vector<float>& values, double share);  // sorts

// Options after the endpoint: --name VALUE.
struct options {
    double seconds = 1;
    uint32_t size = 64, count = 20000, connections = 10000;
    uint32_t times = 0;  // of connect; 0: for as long as `seconds`
    bool epoll = false;
    std::string congestion;  // of the serving side's TCP sockets
};

int serve(const endpoint& at, const options& o);
int serve_epoll(const endpoint& at, const options& o);
int stream(const endpoint& to, const options& o);
int round_trips(const endpoint& to, const options& o);
int connects(const endpoint& to, const options& o);
int idle(const endpoint& to, const options& o);
int seldom(const endpoint& to, const options& o);
int stall(const endpoint& to, const options& o);

}  // namespace bench
