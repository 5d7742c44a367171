// The program's side of the contract, as plain as possible: attach, post jobs, and use the rings. Throws
// std::system_error or std::runtime_error where a test has nothing to check.
#pragma once

#include <sys/socket.h>

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "proto/control.hh"
#include "shm/end.hh"
#include "shm/segment.hh"

namespace vmsgr::test {

using bytes = std::vector<unsigned char>;
bytes random_bytes(size_t n, unsigned seed);

// The program's end of a conduit.
class conn {
public:
    base::unique_fd fd;  // the doorbell
    shm::conduit memory;
    shm::tx_state tx_state;
    shm::rx_state rx_state;
    uint64_t key = 0;
    uint32_t slot = shm::no_slot;
    base::address local, peer;

    shm::conduit_header& header() const { return memory.header(); }
    shm::end end() {
        return {header(), memory.ring_data(0), memory.ring_data(1), memory.capacity, 0, tx_state, rx_state, fd.get()};
    }

    void mark_accepted() { header().end[0].flags.fetch_or(shm::end_accepted); }
    // Poll bits of the doorbell, at most limit_ms after now.
    short poll(short events, int limit_ms = 5000) const;
    // Up to n bytes into the ring without waiting.
    size_t try_send(const unsigned char* data, size_t n);
    void send(const unsigned char* data, size_t n);  // all of them
    void send(const bytes& b) { send(b.data(), b.size()); }
    // 0: end of file, or reset: see reset_error().
    size_t receive(unsigned char* data, size_t n, int limit_ms = 5000);
    bytes receive_exactly(size_t n);
    bytes receive_all();
    int reset_error();  // 0: not reset
    void shut_write();
    void shut_both();
    void close() { fd.reset(); }
    // The outcome of a connect: 0 or the errno.
    int wait_connected(int limit_ms = 5000);
};

class client {
public:
    base::unique_fd control;
    proto::welcome_msg welcome;
    shm::mapping segment;

    explicit client(const std::string& socket, proto::session_kind kind = proto::session_kind::program,
                    const char* program = "component-test");

    shm::session_segment& jobs() const { return *reinterpret_cast<shm::session_segment*>(segment.data()); }
    // A document.
    std::string ask(proto::kind what);
    // The descriptor that answers, or -errno.
    int ask_for(proto::kind what, uint64_t key);
    // Has the daemon closed this session?
    bool closed(int limit_ms = 2000) const;

    // As the library does: the kernel connects, then the socket is handed over.
    conn connect(const base::address& peer, uint32_t ring_bytes = shm::ring_bytes_default);
    // The same with a socket and memory of the caller's.
    conn hand_over(int tcp, const base::address& peer, shm::new_conduit memory);
    // An end page is added to three descriptors. listener: for a local connection.
    void post_connect(uint32_t slot, uint64_t key, const base::address& peer, std::vector<int> fds,
                      uint64_t listener = 0);
    // To a listener of the same daemon, by its key.
    conn connect_locally(const base::address& peer, uint64_t listener);
    // The program's end of the listener's doorbell.
    base::unique_fd listen(int tcp);
};
base::unique_fd connect_control(const std::string& socket);

// From a listener's doorbell.
std::optional<conn> take_accepted(int listener_bell, int limit_ms = 5000);

// Plain kernel sockets.
struct tcp_listener {
    base::unique_fd fd;
    base::address address;
};
tcp_listener tcp_listen(int family = AF_INET, int backlog = 128);
base::unique_fd tcp_connect(const base::address& to);  // -1 in it with errno when refused
base::unique_fd tcp_bound();                           // to a port of 127.0.0.1
base::unique_fd tcp_accept(const tcp_listener& l);
bytes tcp_read_exactly(int fd, size_t n);
bytes tcp_read_all(int fd);  // until end of file; throws on reset
void tcp_write_all(int fd, const bytes& b);

// Echoes every connection until the other side ends, then closes.
class echo_server {
    tcp_listener _listener;
    std::jthread _thread;

public:
    explicit echo_server(int family = AF_INET);
    ~echo_server();
    const base::address& address() const { return _listener.address; }
};

}  // namespace vmsgr::test
