// bench_net: small programs that do one thing with sockets, so that bench.py can see what it costs. They know nothing
// of VMSGR: run them plain or behind `vmsgr run --`.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.hh"

namespace {

constexpr const char* usage =
    "bench_net serve|serve-epoll|stream|rtt|connect|idle|seldom|stall tcp:ADDRESS:PORT|unix:PATH\n"
    "  --size BYTES --seconds S --count ROUND_TRIPS --connections N --times CONNECTS --epoll --congestion NAME\n";

[[noreturn]] void say_usage() {
    fputs(usage, stderr);
    exit(2);
}

bench::options parse(int argc, char** argv) {
    bench::options o;
    for (int i = 3; i < argc; ++i) {
        std::string name = argv[i];
        if (name == "--epoll") {
            o.epoll = true;
            continue;
        }
        if (++i == argc) {
            say_usage();
        }
        if (name == "--congestion") {
            o.congestion = argv[i];
            continue;
        }
        double value = strtod(argv[i], nullptr);
        if (name == "--seconds") {
            o.seconds = value;
        } else if (name == "--size" && value >= 1 && value <= double(bench::message_bytes_max)) {
            o.size = uint32_t(value);
        } else if (name == "--count" && value >= 1) {
            o.count = uint32_t(value);
        } else if (name == "--connections" && value >= 1) {
            o.connections = uint32_t(value);
        } else if (name == "--times" && value >= 1) {
            o.times = uint32_t(value);
        } else {
            say_usage();
        }
    }
    return o;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) {
        say_usage();
    }
    signal(SIGPIPE, SIG_IGN);
    std::string what = argv[1];
    bench::endpoint where = bench::parse_endpoint(argv[2]);
    bench::options o = parse(argc, argv);
    return what == "serve"         ? bench::serve(where, o)
           : what == "serve-epoll" ? bench::serve_epoll(where, o)
           : what == "stream"      ? bench::stream(where, o)
           : what == "rtt"         ? bench::round_trips(where, o)
           : what == "connect"     ? bench::connects(where, o)
           : what == "idle"        ? bench::idle(where, o)
           : what == "seldom"      ? bench::seldom(where, o)
           : what == "stall"       ? bench::stall(where, o)
                                   : (say_usage(), 2);
}
