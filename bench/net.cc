#include "net.hh"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

namespace bench {

void die(const char* what) {
    fprintf(stderr, "bench_net: %s: %s\n", what, strerror(errno));
    exit(1);
}

void die_text(const char* what) {
    fprintf(stderr, "bench_net: %s\n", what);
    exit(1);
}

int checked(int result, const char* what) {
    if (result < 0) {
        die(what);
    }
    return result;
}

endpoint parse_endpoint(const std::string& text) {
    endpoint e;
    if (text.starts_with("unix:")) {
        auto& un = reinterpret_cast<sockaddr_un&>(e.address);
        std::string path = text.substr(5);
        if (path.empty() || path.size() >= sizeof un.sun_path) {
            die_text("unix: needs a path of at most 107 characters");
        }
        un.sun_family = AF_UNIX;
        memcpy(un.sun_path, path.c_str(), path.size() + 1);
        e.length = sizeof un;
        return e;
    }
    size_t colon = text.rfind(':');
    auto& in = reinterpret_cast<sockaddr_in&>(e.address);
    in.sin_family = AF_INET;
    if (!text.starts_with("tcp:") || colon <= 4 ||
        inet_pton(AF_INET, text.substr(4, colon - 4).c_str(), &in.sin_addr) != 1) {
        die_text("an endpoint is tcp:ADDRESS:PORT or unix:PATH");
    }
    in.sin_port = htons(uint16_t(strtoul(text.c_str() + colon + 1, nullptr, 10)));
    e.length = sizeof in;
    return e;
}

namespace {

void no_delay(int fd, int family) {
    int one = 1;
    if (family == AF_INET) {
        checked(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), "TCP_NODELAY");
    }
}

}  // namespace

int listen_on(const endpoint& at, const std::string& congestion) {
    int fd = checked(socket(at.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    int one = 1;
    checked(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), "SO_REUSEADDR");
    no_delay(fd, at.address.ss_family);  // accepted sockets inherit it, by TCP and by VMSGR; and what follows
    if (!congestion.empty()) {
        auto length = socklen_t(congestion.size());
        checked(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion.c_str(), length), "TCP_CONGESTION");
    }
    checked(bind(fd, reinterpret_cast<const sockaddr*>(&at.address), at.length), "bind");
    checked(listen(fd, 1024), "listen");
    return fd;
}

int connect_to(const endpoint& to) {
    int fd = checked(socket(to.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    no_delay(fd, to.address.ss_family);
    checked(connect(fd, reinterpret_cast<const sockaddr*>(&to.address), to.length), "connect");
    return fd;
}

int accept_from(int listener, int flags) {
    for (;;) {
        int fd = accept4(listener, nullptr, nullptr, flags | SOCK_CLOEXEC);
        if (fd >= 0 || (errno != EINTR && errno != ECONNABORTED)) {
            return fd;
        }
    }
}

bool write_all(int fd, const void* data, size_t n) {
    const char* at = static_cast<const char*>(data);
    while (n != 0) {
        ssize_t wrote = write(fd, at, n);
        if (wrote < 0) {
            if (errno == EPIPE || errno == ECONNRESET) {
                return false;
            }
            die("write");
        }
        at += wrote;
        n -= size_t(wrote);
    }
    return true;
}

bool read_all(int fd, void* data, size_t n) {
    char* at = static_cast<char*>(data);
    while (n != 0) {
        ssize_t got = read(fd, at, n);
        if (got <= 0) {
            if (got == 0 || errno == ECONNRESET) {
                return false;
            }
            die("read");
        }
        at += got;
        n -= size_t(got);
    }
    return true;
}

void send_request(int fd, wish what, uint32_t size) {
    char bytes[request_bytes] = {};
    request r{what, size};
    memcpy(bytes, &r, sizeof r);
    if (!write_all(fd, bytes, sizeof bytes)) {
        die_text("the server is gone");
    }
}

double now_s() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

double cpu_s() {
    rusage r;
    getrusage(RUSAGE_SELF, &r);
    return double(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + double(r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1e-6;
}

double percentile(std::vector<float>& values, double share) {
    std::sort(values.begin(), values.end());
    return values.empty() ? 0 : values[std::min(values.size() - 1, size_t(share * double(values.size())))];
}

}  // namespace bench
