// Prints what the daemon costs: component_measure [rtt|throughput|idle|accept|all [CONFIG]]. Medians; one machine's numbers.
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "daemon_process.hh"
#include "test_client.hh"

namespace vmsgr::test {

namespace {

// More configuration from the command line: the second argument, such as "idle_poll_us: 0".
std::string config(daemon_process::all_direct);

using clock = std::chrono::steady_clock;
double us_since(clock::time_point t) { return std::chrono::duration<double, std::micro>(clock::now() - t).count(); }

double median(std::vector<double>& v) {
    std::ranges::nth_element(v, v.begin() + ptrdiff_t(v.size() / 2));
    return v[v.size() / 2];
}

// The peer is another thread on a kernel socket, so one round trip holds TCP loopback once each way.
void round_trips(int pause_us, bool spin) {
    daemon_process d(config);
    echo_server server;
    client c(d.socket());
    auto conn = c.connect(server.address());
    conn.wait_connected();
    auto plain = tcp_connect(server.address());
    std::vector<double> ours, tcp;
    unsigned char buf[64] = {};
    for (int i = 0; i < 3000; ++i) {
        auto t = clock::now();
        conn.send(buf, sizeof buf);
        if (spin) {
            auto r = conn.end().in;
            size_t n = 0;
            while (r.data_bytes(n), n < sizeof buf && us_since(t) < 1e6) {
            }
        }
        conn.receive_exactly(sizeof buf);
        ours.push_back(us_since(t));
        t = clock::now();
        ::send(plain.get(), buf, sizeof buf, 0);
        tcp_read_exactly(plain.get(), sizeof buf);
        tcp.push_back(us_since(t));
        if (pause_us != 0) {
            timespec ts{0, pause_us * 1000L};
            ::nanosleep(&ts, nullptr);
        }
    }
    printf("64 B echo, client %s, pause %d us: vmsgrd %.1f us, plain TCP %.1f us\n", spin ? "spins" : "blocks",
           pause_us, median(ours), median(tcp));
}

void throughput() {
    constexpr size_t total = size_t(4) << 30, piece = 128 << 10;
    daemon_process d(config);
    auto l = tcp_listen();
    client c(d.socket());
    bytes data(piece);
    auto drain = [&l] {
        auto peer = tcp_accept(l);
        bytes b(1 << 20);
        while (::recv(peer.get(), b.data(), b.size(), 0) > 0) {
        }
    };
    for (int round = 0; round < 3; ++round) {
        double cpu = d.cpu_s();
        auto t = clock::now();
        {
            std::jthread reader(drain);
            auto conn = c.connect(l.address, c.welcome.ring_bytes);
            conn.wait_connected();
            for (size_t sent = 0; sent < total; sent += piece) {
                conn.send(data);
            }
            conn.close();
        }
        double ours = us_since(t) / 1e6;
        cpu = d.cpu_s() - cpu;
        t = clock::now();
        {
            std::jthread reader(drain);
            auto tcp = tcp_connect(l.address);
            for (size_t sent = 0; sent < total; sent += piece) {
                tcp_write_all(tcp.get(), data);
            }
        }
        double plain = us_since(t) / 1e6;
        printf("128 KiB writes: vmsgrd %.2f GB/s (%.2f s of CPU in the daemon), plain TCP %.2f GB/s\n",
               double(total) / 1e9 / ours, cpu, double(total) / 1e9 / plain);
    }
    for (int round = 0; round < 3; ++round) {
        auto conn = c.connect(l.address, c.welcome.ring_bytes);
        auto peer = tcp_accept(l);
        conn.wait_connected();
        auto t = clock::now();
        std::jthread writer([&] {
            for (size_t sent = 0; sent < total; sent += piece) {
                tcp_write_all(peer.get(), data);
            }
            peer.reset();
        });
        bytes b(1 << 20);
        while (conn.receive(b.data(), b.size()) > 0) {
        }
        printf("receiving: vmsgrd %.2f GB/s\n", double(total) / 1e3 / us_since(t));
    }
}

void idle() {
    daemon_process d(config);
    echo_server server;
    client c(d.socket());
    std::vector<conn> all;
    for (int i = 0; i < 1000; ++i) {
        all.push_back(c.connect(server.address()));
        all.back().wait_connected();
    }
    double cpu = d.cpu_s();
    ::poll(nullptr, 0, 5000);
    printf("1000 idle connections: %.2f %% of a core\n", (d.cpu_s() - cpu) / 5 * 100);
    std::vector<double> v;
    unsigned char buf[64] = {};
    for (int i = 0; i < 3000; ++i) {
        auto t = clock::now();
        all[7].send(buf, sizeof buf);
        all[7].receive_exactly(sizeof buf);
        v.push_back(us_since(t));
    }
    printf("echo beside them: %.1f us\n", median(v));
}

void accepting() {
    daemon_process d(config);
    client c(d.socket());
    auto l = tcp_listen();
    auto door = c.listen(l.fd.get());
    std::vector<double> v;
    for (int i = 0; i < 2000; ++i) {
        auto t = clock::now();
        auto peer = tcp_connect(l.address);
        auto program = take_accepted(door);
        v.push_back(us_since(t));
    }
    printf("connect to accepted: %.0f us\n", median(v));
}

}  // namespace

}  // namespace vmsgr::test

int main(int argc, char** argv) {
    using namespace vmsgr::test;
    if (argc > 2) {
        config += std::string(argv[2]) + "\n";
    }
    auto wanted = [&](const char* what) { return argc < 2 || strcmp(argv[1], "all") == 0 || strcmp(argv[1], what) == 0; };
    if (wanted("rtt")) {
        round_trips(0, true);
        round_trips(0, false);
        round_trips(1000, false);
    }
    if (wanted("throughput")) {
        throughput();
    }
    if (wanted("idle")) {
        idle();
    }
    if (wanted("accept")) {
        accepting();
    }
}
