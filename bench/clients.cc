// The measuring sides. Each prints one line of JSON; cpu_s is this process's, from its first connection to its last.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>

#include "net.hh"

namespace bench {

namespace {

// One connection on which messages go out and come back, by blocking reads or by epoll on a non-blocking socket.
class line {
    int _fd, _set = -1;
    std::vector<char> _message;

public:
    line(const endpoint& to, uint32_t size, bool epoll, bool asks) : _fd(connect_to(to)), _message(size) {
        if (asks) {
            send_request(_fd, wish::echo, size);
        }
        if (epoll) {
            checked(fcntl(_fd, F_SETFL, fcntl(_fd, F_GETFL) | O_NONBLOCK), "O_NONBLOCK");
            _set = checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
            epoll_event e{.events = EPOLLIN, .data = {.fd = _fd}};
            checked(epoll_ctl(_set, EPOLL_CTL_ADD, _fd, &e), "epoll_ctl");
        }
    }
    line(const line&) = delete;
    line& operator=(const line&) = delete;
    ~line() {
        close(_fd);
        if (_set >= 0) {
            close(_set);
        }
    }

    void round_trip() {
        if (!write_all(_fd, _message.data(), _message.size())) {
            die_text("the server hung up");
        }
        size_t have = 0;
        while (have != _message.size()) {
            if (_set >= 0) {
                epoll_event e;
                checked(epoll_wait(_set, &e, 1, -1), "epoll_wait");
            }
            ssize_t got = read(_fd, _message.data() + have, _message.size() - have);
            if (got < 0 && errno == EAGAIN) {
                continue;
            }
            if (got <= 0) {
                die_text("the server hung up");
            }
            have += size_t(got);
        }
    }
};

std::vector<float> time_round_trips(line& l, uint32_t count) {
    for (uint32_t i = 0; i < count / 10; ++i) {
        l.round_trip();
    }
    std::vector<float> took(count);
    double before = now_s();
    for (auto& t : took) {
        l.round_trip();
        double now = now_s();
        t = float((now - before) * 1e6);
        before = now;
    }
    return took;
}

}  // namespace

int stream(const endpoint& to, const options& o) {
    static char buffer[read_bytes];
    double cpu = cpu_s();
    int fd = connect_to(to);
    send_request(fd, wish::stream, o.size);
    // All bytes, and those after a warm-up of a tenth of the time.
    double begin = now_s(), counted_from = 0, now = begin;
    uint64_t all = 0, counted = 0;
    for (uint32_t reads = 0;; ++reads) {
        ssize_t got = read(fd, buffer, sizeof buffer);
        if (got <= 0) {
            die("read");
        }
        all += uint64_t(got);
        if (reads % 16 != 0) {
            continue;
        }
        now = now_s();
        if (counted_from == 0) {
            if (now - begin >= o.seconds / 10) {
                counted_from = now;
                counted = all;
            }
        } else if (now - counted_from >= o.seconds) {
            break;
        }
    }
    close(fd);
    double seconds = now - counted_from, bytes = double(all - counted);
    printf("{\"gigabytes_per_s\": %.6g, \"messages_per_s\": %.6g, \"messages\": %.10g, \"cpu_s\": %.6g}\n",
           bytes / seconds / 1e9, bytes / o.size / seconds, double(all) / o.size, cpu_s() - cpu);
    return 0;
}

int round_trips(const endpoint& to, const options& o) {
    double cpu = cpu_s();
    line l(to, o.size, o.epoll, !o.epoll);
    auto took = time_round_trips(l, o.count);
    double spent = cpu_s() - cpu;
    printf("{\"p50_us\": %.6g, \"p99_us\": %.6g, \"messages\": %u, \"cpu_s\": %.6g}\n", percentile(took, 0.5),
           percentile(took, 0.99), o.count + o.count / 10, spent);
    return 0;
}

int connects(const endpoint& to, const options& o) {
    double cpu = cpu_s(), begin = now_s(), now = begin;
    uint64_t done = 0;
    for (; o.times != 0 ? done < o.times : now - begin < o.seconds; ++done, now = now_s()) {
        char back[request_bytes];
        int fd = connect_to(to);
        send_request(fd, wish::once, 0);
        if (!read_all(fd, back, sizeof back)) {
            die_text("no answer");
        }
        close(fd);
    }
    printf("{\"connects_per_s\": %.6g, \"messages\": %llu, \"cpu_s\": %.6g}\n", double(done) / (now - begin),
           static_cast<unsigned long long>(done), cpu_s() - cpu);
    return 0;
}

// Round trips with nothing else open; then all connections open, one message on each; then, told so by a line on
// stdin, the round trips again beside them.
int idle(const endpoint& to, const options& o) {
    line active(to, o.size, true, false);
    auto took = time_round_trips(active, o.count);
    double alone = percentile(took, 0.5);
    printf("{\"alone_p50_us\": %.6g}\n", alone);
    fflush(stdout);
    if (getchar() == EOF) {
        return 0;
    }
    double begin = now_s();
    std::vector<int> open;
    for (uint32_t i = 0; i < o.connections; ++i) {
        char message[64] = {};
        int fd = connect_to(to);
        if (!write_all(fd, message, sizeof message) || !read_all(fd, message, sizeof message)) {
            die_text("no answer");
        }
        open.push_back(fd);
    }
    printf("{\"open\": %zu, \"opened_per_s\": %.6g}\n", open.size(), double(open.size()) / (now_s() - begin));
    fflush(stdout);
    if (getchar() == EOF) {
        return 0;
    }
    took = time_round_trips(active, o.count);
    printf("{\"beside_p50_us\": %.6g}\n", percentile(took, 0.5));
    return 0;
}

// All connections open; then, told so by a line on stdin, a message a second on each, evenly spread, and its echo by
// one epoll set.
int seldom(const endpoint& to, const options& o) {
    const int set = checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    std::vector<int> open;
    std::vector<double> sent(o.connections);
    char message[request_bytes] = {};
    for (uint32_t i = 0; i < o.connections; ++i) {
        const int fd = open.emplace_back(connect_to(to));
        if (!write_all(fd, message, sizeof message) || !read_all(fd, message, sizeof message)) {
            die_text("no answer");
        }
        epoll_event e{.events = EPOLLIN, .data = {.u32 = i}};
        checked(epoll_ctl(set, EPOLL_CTL_ADD, fd, &e), "epoll_ctl");
    }
    printf("{\"open\": %zu}\n", open.size());
    fflush(stdout);
    if (getchar() == EOF) {
        return 0;
    }
    const double cpu = cpu_s(), begin = now_s(), every = 1.0 / o.connections;
    std::vector<float> took;
    uint32_t n = 0;
    for (double next = begin; next - begin < o.seconds || took.size() < n;) {
        const double now = now_s();
        if (now >= next && next - begin < o.seconds) {
            const uint32_t at = n++ % o.connections;
            sent[at] = now;
            if (!write_all(open[at], message, sizeof message)) {
                die_text("the server hung up");
            }
            next += every;
            continue;
        }
        epoll_event events[64];
        const int wait_ms = next - begin < o.seconds ? int((next - now) * 1e3) : 1000;
        const int found = checked(epoll_wait(set, events, 64, wait_ms), "epoll_wait");
        for (int i = 0; i < found; ++i) {
            if (!read_all(open[events[i].data.u32], message, sizeof message)) {
                die_text("the server hung up");
            }
            took.push_back(float((now_s() - sent[events[i].data.u32]) * 1e6));
        }
        if (found == 0 && wait_ms == 0) {
            usleep(useconds_t(std::max(next - now_s(), 0.0) * 1e6));
        }
    }
    printf("{\"p50_us\": %.6g, \"p99_us\": %.6g, \"messages\": %u, \"cpu_s\": %.6g}\n", percentile(took, 0.5),
           percentile(took, 0.99), n, cpu_s() - cpu);
    return 0;
}

// Asks for a stream and reads no more of it than its first bytes, until told to end by a line on stdin.
int stall(const endpoint& to, const options& o) {
    int fd = connect_to(to);
    send_request(fd, wish::stream, o.size);
    char first[request_bytes];
    if (!read_all(fd, first, sizeof first)) {
        die_text("the server hung up");
    }
    usleep(200'000);  // the rings between both fill
    puts("{\"stalled\": true}");
    fflush(stdout);
    getchar();
    close(fd);
    return 0;
}

}  // namespace bench
