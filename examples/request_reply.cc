// request_reply: many requests under way at once, answered in the order in which they came, on one thread each.
//
//     request_reply serve PORT        (0: any; prints the port)
//     request_reply ask PORT COUNT    asks for the squares of 1 .. COUNT, 32 requests ahead of the answers
//
// The server waits for several clients in one poll(): the descriptor of a channel is armed by a call that said EAGAIN.
#include <poll.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>
#include <vmsgr/vmsgr.hh>

namespace {

struct message {
    std::uint64_t id, value;
};

[[noreturn]] void die(const std::string& text) {
    std::fprintf(stderr, "request_reply: %s\n", text.c_str());
    std::exit(1);
}

// Answers what is there now; false: this client has finished, or is gone.
bool answer(vmsgr::channel& client) {
    for (;;) {
        message m;
        auto n = client.recv(std::as_writable_bytes(std::span(&m, 1)), 0);
        if (!n) {
            client.flush();
            return n.error() == std::errc::resource_unavailable_try_again;
        }
        m.value *= m.value;
        if (*n != sizeof m || client.send(std::as_bytes(std::span(&m, 1)), VMSGR_MORE)) {
            return false;
        }
    }
}

void serve(vmsgr::session& session, std::uint16_t port) {
    auto listener = session.listen(vmsgr::ipv4("127.0.0.1", port));
    if (!listener) {
        die(listener.error().text);
    }
    std::printf("%d\n", listener->port());
    std::fflush(stdout);
    std::vector<vmsgr::channel> clients;
    for (;;) {
        while (auto fresh = listener->accept(0)) {
            clients.push_back(std::move(*fresh));
        }
        std::erase_if(clients, [](auto& client) { return !answer(client); });
        std::vector<pollfd> waits{{listener->fd(), POLLIN, 0}};
        for (auto& client : clients) {
            waits.push_back({client.fd(), POLLIN, 0});
        }
        poll(waits.data(), waits.size(), -1);
    }
}

int ask(vmsgr::session& session, std::uint16_t port, std::uint64_t count) {
    constexpr std::uint64_t ahead = 32;
    auto server = session.connect(vmsgr::ipv4("127.0.0.1", port));
    if (!server) {
        die(server.error().text);
    }
    std::uint64_t sum = 0;
    for (std::uint64_t asked = 0, answered = 0; answered < count; ++answered) {
        for (; asked < count && asked < answered + ahead; ++asked) {
            const message m{asked, asked + 1};
            server->send(std::as_bytes(std::span(&m, 1)));
        }
        message m{};
        auto n = server->recv(std::as_writable_bytes(std::span(&m, 1)), 5000);
        if (!n || m.id != answered || m.value != (answered + 1) * (answered + 1)) {
            die(n ? "a wrong answer" : server->why() ? server->why()->text : n.error().message());
        }
        sum += m.value;
    }
    std::printf("%" PRIu64 " answers, sum %" PRIu64 "\n", count, sum);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    const std::string what = argc > 2 ? argv[1] : "";
    if (what != "serve" && (what != "ask" || argc < 4)) {
        die("usage: request_reply serve PORT | request_reply ask PORT COUNT");
    }
    auto session = vmsgr::session::open();
    if (!session) {
        die(session.error().text);
    }
    const auto port = static_cast<std::uint16_t>(std::atoi(argv[2]));
    if (what == "serve") {
        serve(*session, port);
    }
    return ask(*session, port, std::strtoull(argv[3], nullptr, 10));
}
