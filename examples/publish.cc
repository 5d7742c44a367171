// publish: one program sends the same to many; who reads too slowly misses messages and nobody else does.
//
//     publish serve PORT COUNT SUBSCRIBERS   (port 0: any; prints the port) waits for them, publishes, waits for their end
//     publish listen PORT                    prints how many numbers came, and the last one
#include <poll.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>
#include <vmsgr/vmsgr.hh>

namespace {

[[noreturn]] void die(const std::string& text) {
    std::fprintf(stderr, "publish: %s\n", text.c_str());
    std::exit(1);
}

void serve(vmsgr::session& session, std::uint16_t port, std::uint64_t count, std::size_t wanted) {
    auto listener = session.listen(vmsgr::ipv4("127.0.0.1", port));
    if (!listener) {
        die(listener.error().text);
    }
    std::printf("%d\n", listener->port());
    std::fflush(stdout);
    std::vector<vmsgr::channel> subscribers;
    while (subscribers.size() < wanted) {
        auto fresh = listener->accept();
        if (!fresh) {
            die(fresh.error().text);
        }
        subscribers.push_back(std::move(*fresh));
    }
    std::uint64_t missed = 0;
    for (std::uint64_t i = 1; i <= count; ++i) {
        for (auto& s : subscribers) {
            // Never waits: a full ring costs its reader this message.
            if (auto e = s.send(std::as_bytes(std::span(&i, 1)), 0, 0)) {
                ++missed;
            }
        }
    }
    for (auto& s : subscribers) {
        s.finish();
    }
    std::byte none[1];
    for (auto& s : subscribers) {
        s.recv(none);  // its end: it has read everything
    }
    std::printf("%" PRIu64 " to each of %zu, missed by slow ones: %" PRIu64 "\n", count, wanted, missed);
}

void listen(vmsgr::session& session, std::uint16_t port) {
    auto channel = session.connect(vmsgr::ipv4("127.0.0.1", port));
    if (!channel) {
        die(channel.error().text);
    }
    std::uint64_t came = 0, last = 0, number = 0;
    for (;;) {
        auto n = channel->recv(std::as_writable_bytes(std::span(&number, 1)));
        if (!n) {
            break;
        }
        if (number <= last) {
            die("out of order");
        }
        last = number;
        ++came;
    }
    if (auto why = channel->why(); why && why->errnum != ENODATA) {
        die(why->text);
    }
    std::printf("%" PRIu64 " came, last %" PRIu64 "\n", came, last);
}

}  // namespace

int main(int argc, char** argv) {
    const std::string what = argc > 2 ? argv[1] : "";
    if (!(what == "serve" && argc == 5) && what != "listen") {
        die("usage: publish serve PORT COUNT SUBSCRIBERS | publish listen PORT");
    }
    auto session = vmsgr::session::open();
    if (!session) {
        die(session.error().text);
    }
    const auto port = static_cast<std::uint16_t>(std::atoi(argv[2]));
    if (what == "serve") {
        serve(*session, port, std::strtoull(argv[3], nullptr, 10), std::strtoul(argv[4], nullptr, 10));
    } else {
        listen(*session, port);
    }
    return 0;
}
