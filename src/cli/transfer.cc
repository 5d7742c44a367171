// vmsgr send and vmsgr recv: a file, or standard input, across a channel; both sides compare hashes at the end.
//
// The messages: a head with the size, where it is known, which the receiver answers; the data; a message of 0 bytes;
// a tail with size and hash, which the receiver answers with its own.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <format>
#include <memory>
#include <span>
#include <string>

#include "base/error.hh"
#include "base/unique_fd.hh"
#include "cli/progress.hh"
#include "cli/reach.hh"
#include "cli/table.hh"
#include "conf/words.hh"
#include <nlohmann/json.hpp>
#include <xxhash.h>

namespace vmsgr::cli {

namespace {

struct transfer_options {
    std::string address, file = "-";
    int timeout_ms = 5000;
};

struct head {
    char magic[8];
    uint64_t bytes = 0;  // 0: not known
};
constexpr head sender_head{{'V', 'M', 'S', 'G', 'R', 'S', 'N', 'D'}};
constexpr head receiver_head{{'V', 'M', 'S', 'G', 'R', 'R', 'C', 'V'}};
constexpr int head_timeout_ms = 10'000;
struct tail {
    uint64_t bytes = 0, hash = 0;
};

// XXH64, as xxhsum -H1 prints it: shows whether what arrived is what was sent. It finds accidents, not attacks.
class stream_hash {
    XXH64_state_t _state;

public:
    stream_hash() noexcept { XXH64_reset(&_state, 0); }
    void add(std::span<const std::byte> data) noexcept { XXH64_update(&_state, data.data(), data.size()); }
    uint64_t value() const noexcept { return XXH64_digest(&_state); }
};

std::string hex(uint64_t value) { return std::format("{:016x}", value); }

// The other side's head. Empty, or why there is none.
std::string read_head(vmsgr::channel& c, const head& wanted, const char* who, head& h) {
    auto n = c.recv(std::as_writable_bytes(std::span(&h, 1)), head_timeout_ms);
    if (!n && n.error() != std::errc::message_size && n.error() != std::errc::timed_out) {
        return reason(c, n.error());
    }
    const bool right = n && *n == sizeof h && memcmp(h.magic, wanted.magic, sizeof h.magic) == 0;
    return right ? "" : std::string("the other side is no `") + who + "`";
}

bool is_standard(const std::string& file) { return file == "-"; }

std::string os_text(const std::string& what) { return base::os_error(what).text; }

void report(const options& o, const char* verb, const tail& t, double seconds) {
    if (o.json) {
        nlohmann::json j{{"bytes", t.bytes}, {"seconds", seconds}, {"xxh64", hex(t.hash)}};
        puts(j.dump(2).c_str());
    } else {
        fprintf(stderr, "%s %lu bytes in %.2f s (%s/s), xxh64 %s\n", verb, t.bytes, seconds,
                bytes_text(uint64_t(double(t.bytes) / std::max(seconds, 1e-3))).c_str(), hex(t.hash).c_str());
    }
}

// An error is a line for people.
std::expected<tail, std::string> send_all(vmsgr::channel& c, int file, progress& shown) {
    tail t;
    stream_hash hash;
    for (;;) {
        auto place = c.reserve(c.max());
        if (!place) {
            return std::unexpected(reason(c, place.error()));
        }
        ssize_t n = ::read(file, place->data(), place->size());
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return std::unexpected(os_text("cannot read"));
        }
        // Hashed before it leaves: from then on the other side could write there.
        hash.add(place->first(size_t(n)));
        if (auto e = c.commit(size_t(n))) {
            return std::unexpected(reason(c, e));
        }
        if (n == 0) {
            break;
        }
        shown.at(t.bytes += uint64_t(n));
    }
    t.hash = hash.value();
    return t;
}

int send(const options& o, const transfer_options& s) {
    auto to = parse_endpoint(s.address, false);
    if (!to) {
        return say_error(exit_usage, "send: " + to.error().text);
    }
    base::unique_fd opened(is_standard(s.file) ? -1 : ::open(s.file.c_str(), O_RDONLY | O_CLOEXEC));
    const int file = is_standard(s.file) ? STDIN_FILENO : opened.get();
    struct stat st;
    if (file < 0 || ::fstat(file, &st) != 0) {
        return say_error(exit_failure, os_text("send: cannot read " + conf::quote(s.file)));
    }
    auto session = open_session(o);
    if (!session) {
        return session.error();
    }
    auto c = session->connect(*to, {.timeout_ms = s.timeout_ms, .name = "send"});
    if (!c) {
        return say_error(exit_failure, "send: " + c.error().text);
    }
    head h = sender_head, answer;
    h.bytes = S_ISREG(st.st_mode) ? uint64_t(st.st_size) : 0;
    progress shown(h.bytes);
    if (auto e = c->send(bytes_of(h))) {
        return say_error(exit_failure, "send: " + reason(*c, e));
    }
    if (auto wrong = read_head(*c, receiver_head, "vmsgr recv", answer); !wrong.empty()) {
        return say_error(exit_failure, "send: " + wrong);
    }
    auto sent = send_all(*c, file, shown);
    if (!sent) {
        return say_error(exit_failure, "send: " + sent.error());
    }
    if (auto e = c->send(bytes_of(*sent))) {
        return say_error(exit_failure, "send: " + reason(*c, e));
    }
    c->finish();
    tail theirs;
    auto n = c->recv(std::as_writable_bytes(std::span(&theirs, 1)));
    const double seconds = shown.end(sent->bytes);
    if (!n) {
        return say_error(exit_failure, "send: the receiver did not confirm: " + reason(*c, n.error()));
    }
    if (*n != sizeof theirs || theirs.bytes != sent->bytes || theirs.hash != sent->hash) {
        return say_error(exit_failure, "send: the receiver has " + std::to_string(theirs.bytes) + " bytes, hash " +
                                           hex(theirs.hash) + "; sent were " + std::to_string(sent->bytes) + ", hash " +
                                           hex(sent->hash));
    }
    report(o, "sent", *sent, seconds);
    return exit_ok;
}

// A file appears under its name once it is whole. What exists and is no plain file (a pipe, /dev/null) is written to.
class target {
    std::string _name, _part;
    base::unique_fd _opened;

public:
    explicit target(std::string name) : _name(std::move(name)) {}
    ~target() {
        if (!_part.empty()) {
            ::unlink(_part.c_str());
        }
    }
    bool open() {
        struct stat st;
        if (is_standard(_name)) {
            return true;
        }
        const bool plain = ::stat(_name.c_str(), &st) != 0 || S_ISREG(st.st_mode);
        const std::string path = plain ? _name + ".part" : _name;
        _opened.reset(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
        if (plain && _opened) {
            _part = path;
        }
        return bool(_opened);
    }
    bool write(std::span<const std::byte> data) const {
        const int fd = is_standard(_name) ? STDOUT_FILENO : _opened.get();
        while (!data.empty()) {
            ssize_t n = ::write(fd, data.data(), data.size());
            if (n < 0 && errno != EINTR) {
                return false;
            }
            data = data.subspan(n > 0 ? size_t(n) : 0);
        }
        return true;
    }
    bool keep() {
        if (_part.empty()) {
            return true;
        }
        const bool renamed = ::rename(_part.c_str(), _name.c_str()) == 0;
        if (renamed) {
            _part.clear();
        }
        return renamed;
    }
};

std::expected<tail, std::string> receive_all(vmsgr::channel& c, const target& to, progress& shown) {
    tail t;
    stream_hash hash;
    std::vector<std::byte> data(c.max());
    for (;;) {
        // Copied first, so that what is hashed is what is written.
        auto n = c.recv(data);
        if (!n) {
            return std::unexpected("cut short after " + std::to_string(t.bytes) + " bytes: " + reason(c, n.error()));
        }
        if (*n == 0) {
            break;
        }
        const auto piece = std::span(data).first(*n);
        hash.add(piece);
        if (!to.write(piece)) {
            return std::unexpected(os_text("cannot write"));
        }
        shown.at(t.bytes += *n);
    }
    t.hash = hash.value();
    return t;
}

int receive_from(const options& o, vmsgr::channel& c, target& to) {
    head h;
    if (auto wrong = read_head(c, sender_head, "vmsgr send", h); !wrong.empty()) {
        return say_error(exit_failure, "recv: " + wrong);
    }
    if (auto e = c.send(bytes_of(receiver_head))) {
        return say_error(exit_failure, "recv: " + reason(c, e));
    }
    progress shown(h.bytes);
    auto came = receive_all(c, to, shown);
    tail theirs;
    if (!came) {
        return say_error(exit_failure, "recv: " + came.error());
    }
    auto n = c.recv(std::as_writable_bytes(std::span(&theirs, 1)));
    const double seconds = shown.end(came->bytes);
    const bool same = n && *n == sizeof theirs && theirs.bytes == came->bytes && theirs.hash == came->hash;
    if (same && !to.keep()) {
        return say_error(exit_failure, os_text("recv: cannot rename the file"));
    }
    c.send(bytes_of(*came));
    if (!same) {
        return say_error(exit_failure, n ? "recv: the hash differs from the sender's: something was lost on the way"
                                         : "recv: " + reason(c, n.error()));
    }
    c.finish();
    std::byte none[1];
    (void)c.recv(none, 5000);  // its end: it has our hash
    report(o, "received", *came, seconds);
    return exit_ok;
}

int receive(const options& o, const transfer_options& r) {
    auto at = parse_endpoint(r.address, true);
    if (!at) {
        return say_error(exit_usage, "recv: " + at.error().text);
    }
    if (o.json && is_standard(r.file)) {
        return say_error(exit_usage, "recv: --json needs a FILE, as standard output has the data");
    }
    auto session = open_session(o);
    if (!session) {
        return session.error();
    }
    auto listener = session->listen(*at, {.name = "recv"});
    if (!listener) {
        return say_error(exit_failure, "recv: " + listener.error().text);
    }
    target to(r.file);
    if (!to.open()) {
        return say_error(exit_failure, os_text("recv: cannot write " + conf::quote(r.file)));
    }
    fprintf(stderr, "waiting on %s\n", endpoint_text(listener->address()).c_str());
    auto c = listener->accept();
    if (!c) {
        return say_error(exit_failure, "recv: " + c.error().text);
    }
    return receive_from(o, *c, to);
}

}  // namespace

command add_send(CLI::App& app, const options& o) {
    auto s = std::make_shared<transfer_options>();
    app.add_option("PEER", s->address, std::string(endpoint_help) + ", where `vmsgr recv` waits")->required();
    app.add_option("FILE", s->file, "what to send; - or none: standard input");
    app.add_option("--timeout-ms", s->timeout_ms, "for the connection; default 5000")->check(CLI::Range(1, 600'000));
    app.footer("Examples:\n  vmsgr send 127.0.0.1:7000 disk.img\n  tar c /etc | vmsgr send :7000");
    return {[&o, s] { return send(o, *s); }};
}

command add_recv(CLI::App& app, const options& o) {
    auto r = std::make_shared<transfer_options>();
    app.add_option("ADDRESS", r->address, std::string(endpoint_help) + " to wait on for one `vmsgr send`; port 0: any")
        ->required();
    app.add_option("FILE", r->file, "where to; it appears once it is whole. - or none: standard output");
    app.footer("Examples:\n  vmsgr recv 127.0.0.1:7000 disk.img\n  vmsgr recv :7000 | tar t");
    return {[&o, r] { return receive(o, *r); }};
}

}  // namespace vmsgr::cli
