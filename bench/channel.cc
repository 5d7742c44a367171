// bench_channel: message channels of libvmsgr, between two threads of this process as bench_ring has them, each with
// its own session. The same vmsgrd for both: a local channel; two: through both, over TCP.
//
//   bench_channel WHAT SIZE SECONDS SOCKET [SOCKET-OF-THE-SENDER]
//   send     vmsgr_channel_send and recv, each message by itself                messages/s
//   more     the same, 15 of 16 with VMSGR_MORE                                 messages/s
//   inplace  reserve, commit and peek, release: written and read in the ring    messages/s
//   rtt      there and back, looking for up to 1 ms before sleeping             us, median
//   sleep    there and back, never looking                                      us, median
// And without vmsgrd (SOCKET: tcp), one write() a message, read into 64 KiB; there and back:
//   tcp      messages/s          tcprtt   us, median
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "two_threads.hh"
#include "vmsgr/vmsgr.h"

namespace {

constexpr size_t read_bytes = 64 * 1024;

struct settings {
    std::string what;
    size_t size;
    double seconds;
    const char* receiver;
    const char* sender;
};

struct pair {
    vmsgr_channel* here;
    vmsgr_channel* there;
};

vmsgr_session* session_of(const char* path) {
    vmsgr_session_options o{sizeof o, path, "bench_channel"};
    vmsgr_session* s = nullptr;
    vmsgr_error e;
    if (vmsgr_session_open(&o, &s, &e) != 0) {
        die(e.text);
    }
    return s;
}

pair open_pair(const settings& s) {
    vmsgr_error e, f;
    vmsgr_channel_options o{};
    o.size = sizeof o;
    o.max_message_bytes = std::max<size_t>(s.size, 1024);
    o.spin_us = s.what == "rtt" ? 1000 : s.what == "sleep" ? -1 : 0;
    vmsgr_listener* listener = nullptr;
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof at;
    if (vmsgr_channel_listen(session_of(s.receiver), reinterpret_cast<sockaddr*>(&at), length, &o, &listener, &e) !=
        0) {
        die(e.text);
    }
    vmsgr_listener_address(listener, reinterpret_cast<sockaddr*>(&at), &length);
    usleep(100'000);  // the daemon shows the listener by then
    pair p{};
    std::thread other([&] {
        if (vmsgr_channel_connect(session_of(s.sender), reinterpret_cast<sockaddr*>(&at), length, &o, &p.there, &f) !=
            0) {
            die(f.text);
        }
    });
    if (vmsgr_listener_accept(listener, 5000, &p.here, &e) != 0) {
        die(e.text);
    }
    other.join();
    if ((vmsgr_channel_is_local(p.here) != 0) != (strcmp(s.receiver, s.sender) == 0)) {
        die("local where it should not be, or the other way round");
    }
    return p;
}

pair open_tcp() {
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof at;
    if (bind(listener, reinterpret_cast<sockaddr*>(&at), length) != 0 || listen(listener, 1) != 0 ||
        getsockname(listener, reinterpret_cast<sockaddr*>(&at), &length) != 0 ||
        connect(client, reinterpret_cast<sockaddr*>(&at), length) != 0) {
        die("no TCP connection");
    }
    int server = accept(listener, nullptr, nullptr), on = 1;
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return {reinterpret_cast<vmsgr_channel*>(intptr_t{server}), reinterpret_cast<vmsgr_channel*>(intptr_t{client})};
}

int number(vmsgr_channel* c) { return int(reinterpret_cast<intptr_t>(c)); }

// One message; false: the other side has finished.
bool put(const settings& s, vmsgr_channel* c, const char* data, unsigned i) {
    if (s.what == "inplace") {
        void* place = nullptr;
        if (vmsgr_channel_reserve(c, s.size, -1, &place) != 0) {
            return false;
        }
        memcpy(place, data, s.size);
        return vmsgr_channel_commit(c, s.size, 0) == 0;
    }
    if (s.what == "tcp" || s.what == "tcprtt") {
        for (size_t done = 0; done < s.size;) {
            ssize_t n = send(number(c), data + done, s.size - done, MSG_NOSIGNAL);
            if (n <= 0) {
                return false;
            }
            done += size_t(n);
        }
        return true;
    }
    return vmsgr_channel_send(c, data, s.size, s.what == "more" && i % 16 != 15 ? VMSGR_MORE : 0, -1) == 0;
}

// Bytes of messages that came; 0: the other side has finished.
size_t get(const settings& s, vmsgr_channel* c, char* to) {
    if (s.what == "inplace") {
        const void* message = nullptr;
        ssize_t n = vmsgr_channel_peek(c, &message, -1);
        if (n < 0) {
            return 0;
        }
        memcpy(to, message, size_t(n));
        asm volatile("" : : "r"(to) : "memory");
        vmsgr_channel_release(c);
        return size_t(n);
    }
    ssize_t n = s.what == "tcp"      ? recv(number(c), to, read_bytes, 0)
                : s.what == "tcprtt" ? recv(number(c), to, s.size, MSG_WAITALL)
                                     : vmsgr_channel_recv(c, to, s.size, -1);
    return n > 0 ? size_t(n) : 0;
}

double flow(const settings& s, pair p) {
    std::atomic<bool> stop{false};
    std::thread producer([&] {
        pin_to(1);
        std::vector<char> data(s.size, 'd');
        for (unsigned i = 0; !stop.load(std::memory_order_relaxed) && put(s, p.there, data.data(), i); ++i) {
        }
        s.what == "tcp" ? (void)shutdown(number(p.there), SHUT_WR) : (void)vmsgr_channel_finish(p.there);
    });
    std::vector<char> to(std::max(s.size, read_bytes));
    const double begin = now_s();
    double from = 0, now = begin;
    uint64_t bytes = 0;
    while (from == 0 || now - from < s.seconds) {
        for (unsigned i = 0; i < rounds; ++i) {
            bytes += get(s, p.here, to.data());
        }
        now = now_s();
        if (from == 0 && now - begin > s.seconds / 10) {
            from = now;
            bytes = 0;
        }
    }
    const double rate = double(bytes) / double(s.size) / (now - from);
    stop.store(true);
    while (get(s, p.here, to.data()) != 0) {
    }
    producer.join();
    return rate;
}

double round_trip(const settings& s, pair p) {
    std::thread echo([&] {
        pin_to(1);
        std::vector<char> data(s.size);
        while (get(s, p.there, data.data()) != 0 && put(s, p.there, data.data(), 15)) {
        }
    });
    std::vector<char> data(s.size, 'd');
    std::vector<double> took;
    const double begin = now_s();
    for (double before = begin; before - begin < s.seconds;) {
        for (unsigned i = 0; i < rounds; ++i) {
            if (!put(s, p.here, data.data(), 15) || get(s, p.here, data.data()) == 0) {
                die("the other end is gone");
            }
        }
        const double now = now_s();
        took.push_back((now - before) / rounds * 1e6);
        before = now;
    }
    s.what == "tcprtt" ? (void)shutdown(number(p.here), SHUT_WR) : (void)vmsgr_channel_finish(p.here);
    echo.join();
    std::sort(took.begin(), took.end());
    return took[took.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 5) {
        die("usage: bench_channel send|more|inplace|rtt|sleep|tcp|tcprtt SIZE SECONDS SOCKET [SOCKET]");
    }
    const settings s{argv[1], strtoul(argv[2], nullptr, 10), strtod(argv[3], nullptr), argv[4], argv[argc > 5 ? 5 : 4]};
    const bool tcp = s.what.starts_with("tcp"), trips = s.what.ends_with("rtt") || s.what == "sleep";
    const pair p = tcp ? open_tcp() : open_pair(s);
    pin_to(0);
    printf("{\"value\": %.6g}\n", trips ? round_trip(s, p) : flow(s, p));
    return 0;
}
