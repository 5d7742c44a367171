// bulk: a file across, read straight into the channel's memory and written straight from it, with a progress bar.
//
//     bulk get PORT FILE         waits for one sender (port 0: any; prints the port)
//     bulk put PORT FILE
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vmsgr/vmsgr.hh>

namespace {

constexpr std::size_t piece = 64 << 10;

[[noreturn]] void die(const std::string& text) {
    std::fprintf(stderr, "bulk: %s\n", text.c_str());
    std::exit(1);
}

void progress(std::uint64_t done, std::uint64_t all) {
    static int shown = -1;
    const int percent = all == 0 ? 100 : static_cast<int>(done * 100 / all);
    if (percent != shown && isatty(STDERR_FILENO)) {
        shown = percent;
        std::fprintf(stderr, "\r[%-50.*s] %3d %%%s", percent / 2,
                     "==================================================", percent, done == all ? "\n" : "");
    }
}

// The first message is the size; the others are the file.
void put(vmsgr::channel channel, const char* name) {
    const int file = open(name, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (file < 0 || fstat(file, &st) != 0) {
        die(std::string("cannot read ") + name);
    }
    const auto all = static_cast<std::uint64_t>(st.st_size);
    channel.send(std::as_bytes(std::span(&all, 1)));
    for (std::uint64_t done = 0; done < all;) {
        auto place = channel.reserve(piece);
        if (!place) {
            die(channel.why() ? channel.why()->text : "the other side is gone");
        }
        const ssize_t n = read(file, place->data(), place->size());
        if (n <= 0) {
            die(std::string("cannot read ") + name);
        }
        channel.commit(static_cast<std::size_t>(n));
        progress(done += static_cast<std::uint64_t>(n), all);
    }
    channel.finish();
    std::byte none[1];
    channel.recv(none);  // its end: everything is written
    close(file);
}

void get(vmsgr::channel channel, const char* name) {
    const int file = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    std::uint64_t all = 0, done = 0;
    if (file < 0 || !channel.recv(std::as_writable_bytes(std::span(&all, 1)))) {
        die(file < 0 ? std::string("cannot write ") + name : "no size came");
    }
    for (;;) {
        auto message = channel.peek();
        if (!message) {
            break;
        }
        const auto bytes = message->bytes();
        if (write(file, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
            die(std::string("cannot write ") + name);
        }
        progress(done += bytes.size(), all);
    }
    if (done != all) {
        die(channel.why() ? channel.why()->text : "cut short");
    }
    close(file);
    std::printf("%" PRIu64 " bytes\n", all);
}

}  // namespace

int main(int argc, char** argv) {
    const std::string what = argc == 4 ? argv[1] : "";
    if (what != "get" && what != "put") {
        die("usage: bulk get PORT FILE | bulk put PORT FILE");
    }
    auto session = vmsgr::session::open();
    if (!session) {
        die(session.error().text);
    }
    const auto at = vmsgr::ipv4("127.0.0.1", static_cast<std::uint16_t>(std::atoi(argv[2])));
    if (what == "put") {
        auto channel = session->connect(at);
        if (!channel) {
            die(channel.error().text);
        }
        put(std::move(*channel), argv[3]);
        return 0;
    }
    auto listener = session->listen(at);
    if (!listener) {
        die(listener.error().text);
    }
    std::printf("%d\n", listener->port());
    std::fflush(stdout);
    auto channel = listener->accept();
    if (!channel) {
        die(channel.error().text);
    }
    get(std::move(*channel), argv[3]);
    return 0;
}
