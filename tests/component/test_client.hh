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
#include "proto/dial.hh"
#include "proto/control_client.hh"
#include "shm/arena.hh"
#include "shm/end.hh"

namespace vmsgr::test {

using bytes = std::vector<unsigned char>;
bytes random_bytes(size_t n, unsigned seed);

// The program's end of a conduit, end 0.
class conn {
public:
    base::unique_fd fd;  // the doorbell
    std::shared_ptr<shm::arena> arena;
    shm::conduit memory;
    shm::tx_state tx_state;
    shm::rx_state rx_state;
    uint64_t id = 0;
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
    // A request and its reply; status in it.
    struct answer {
        proto::reply_msg reply;
        proto::received got;
    };
    answer request(proto::request_msg m, std::vector<int> fds);
    // The descriptor that answers, or -errno; `shown` is a doorbell.
    int borrow(uint64_t id, int shown, uint32_t flags = 0);  // proto::borrow_flag
    // Has the daemon closed this session?
    bool closed(int limit_ms = 2000) const;

    uint64_t next_id() { return welcome.session_id << 32 | ++_ids; }
    // As the library does: the kernel connects, then the socket is handed over.
    conn connect(const base::address& peer, uint32_t ring_bytes = shm::ring_bytes_default);
    // The same with a socket and memory of the caller's.
    conn hand_over(int tcp, const base::address& peer, shm::new_arena memory);
    void post_connect(uint32_t job, uint64_t id, const base::address& peer, std::vector<int> fds, uint32_t slot = 0);
    // What the daemon gives for a listening socket.
    struct listener {
        base::unique_fd door, lifeline;
        proto::secret word{};
        uint64_t id = 0;
        int status = 0;
        int get() const { return door.get(); }
    };
    listener listen(int tcp, uint32_t backlog = 128);

private:
    uint32_t _ids = 0;
};
base::unique_fd connect_control(const std::string& socket);

// From a listener's door: what the daemon brings.
std::optional<conn> take_accepted(const client::listener& l, int limit_ms = 5000);
shm::new_arena new_memory(uint32_t ring_bytes, uint32_t slots = 1);

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
