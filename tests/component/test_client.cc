#include "test_client.hh"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <random>
#include <stdexcept>
#include <system_error>

#include "base/names.hh"

namespace vmsgr::test {

namespace {

[[noreturn]] void fail(const char* what, int err = errno) {
    throw std::system_error(err, std::generic_category(), what);
}

short poll_fd(int fd, short events, int limit_ms) {
    pollfd p{fd, events, 0};
    return ::poll(&p, 1, limit_ms) == 1 ? p.revents : short(0);
}

}  // namespace

bytes random_bytes(size_t n, unsigned seed) {
    std::mt19937_64 random(seed);
    bytes b(n);
    for (size_t i = 0; i < n; ++i) {
        b[i] = static_cast<unsigned char>(random());
    }
    return b;
}

// --- a conduit's end ---

namespace {

// The waits of a test (shm/end.hh).
struct test_user {
    bool (*ended)(uint32_t flags);
    const shm::end* e;
    bool gone = false;

    bool looks() const { return false; }
    void unlock() const {}
    bool over() const { return ended(e->flags_at_end().value_or(0)); }
    void broke_rules() const { throw std::runtime_error("bytes that are no tokens"); }
    void left() { gone = true; }
};

}  // namespace

short conn::poll(short events, int limit_ms) const { return poll_fd(fd.get(), events, limit_ms); }

size_t conn::try_send(const unsigned char* data, size_t n) {
    auto e = end();
    size_t room = 0;
    if (e.out.free_bytes(room) != shm::look::ok) {
        throw std::runtime_error("bad index from the daemon");
    }
    n = std::min(n, room);
    if (n != 0) {
        auto p = e.out.space(n);
        memcpy(p.iov[0].iov_base, data, p.iov[0].iov_len);
        memcpy(p.iov[1].iov_base, data + p.iov[0].iov_len, p.iov[1].iov_len);
        e.out.publish(n);
        e.sent();
    }
    return n;
}

void conn::send(const unsigned char* data, size_t n) {
    auto e = end();
    test_user user{nullptr, &e};
    for (shm::waiting w; n != 0;) {
        size_t sent = try_send(data, n);
        data += sent;
        n -= sent;
        if (n != 0 && e.wait_writable(user, w, 1, base::deadline(5000)) == shm::woken::failed) {
            throw std::runtime_error("no room in 5 s");
        }
        if (user.gone) {
            throw std::runtime_error("the other end is gone");
        }
    }
}

size_t conn::receive(unsigned char* data, size_t n, int limit_ms) {
    auto e = end();
    auto ended = [](uint32_t flags) { return (flags & (shm::ring_fin | shm::ring_reset)) != 0; };
    test_user user{ended, &e};
    const base::deadline until(limit_ms);
    for (shm::waiting w; !user.gone;) {
        size_t there = 0;
        if (e.in.data_bytes(there) != shm::look::ok) {
            throw std::runtime_error("bad index from the daemon");
        }
        if (there != 0) {
            n = std::min(n, there);
            auto p = e.in.data(n);
            memcpy(data, p.iov[0].iov_base, p.iov[0].iov_len);
            memcpy(data + p.iov[0].iov_len, p.iov[1].iov_base, p.iov[1].iov_len);
            e.in.consume(n);
            e.left_some(false);
            return n;
        }
        switch (e.wait_readable(user, w, until)) {
        case shm::woken::look: break;
        case shm::woken::over: return 0;
        case shm::woken::failed: throw std::runtime_error("nothing came in time");
        }
    }
    return 0;
}

bytes conn::receive_exactly(size_t n) {
    bytes b(n);
    for (size_t at = 0; at < n;) {
        size_t r = receive(b.data() + at, n - at);
        if (r == 0) {
            throw std::runtime_error("end of file after " + std::to_string(at));
        }
        at += r;
    }
    return b;
}

bytes conn::receive_all() {
    bytes all, part(64 << 10);
    while (size_t n = receive(part.data(), part.size())) {
        all.insert(all.end(), part.begin(), part.begin() + ptrdiff_t(n));
    }
    return all;
}

int conn::reset_error() {
    auto e = end();
    return (e.in.flags() & shm::ring_reset) != 0 ? e.in.error() : 0;
}

void conn::shut_write() {
    end().out.set_flags(shm::ring_fin);
    ::shutdown(fd.get(), SHUT_WR);
}

void conn::shut_both() {
    header().end[0].flags.fetch_or(shm::end_read_shut);
    end().out.set_flags(shm::ring_fin);
    ::shutdown(fd.get(), SHUT_RDWR);
}

int conn::wait_connected(int limit_ms) {
    for (base::deadline until(limit_ms); until.left_ms() != 0;) {
        uint32_t status = header().status.load(std::memory_order_acquire);
        if (status != shm::conduit_connecting) {
            return status == shm::conduit_established ? 0 : header().error.load();
        }
        poll(POLLOUT, 10);
    }
    throw std::runtime_error("no outcome of connect in time");
}

// --- a session ---

base::unique_fd connect_control(const std::string& socket) {
    sockaddr_un un;
    uint32_t len = 0;
    if (int e = proto::unix_address(socket.c_str(), &un, len); e != 0) {
        fail("socket path", e);
    }
    base::unique_fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&un), len) != 0) {
        fail("connect to the control socket");
    }
    return fd;
}

client::client(const std::string& socket, proto::session_kind kind, const char* program)
    : control(connect_control(socket)) {
    proto::hello_msg hello;
    hello.session = kind;
    strncpy(hello.program, program, sizeof hello.program - 1);
    if (int e = proto::send_with_fds(control.get(), &hello, sizeof hello, {}, 0); e != 0) {
        fail("hello", e);
    }
    proto::received got;
    if (int e = proto::receive_with_fds(control.get(), &welcome, sizeof welcome, 0, got); e != 0) {
        fail("welcome", e);
    }
    if (got.fd_count == 2) {
        segment = std::move(shm::map_sealed(got.fds[0].get(), welcome.segment_bytes).value());
    }
}

std::string client::ask(proto::kind what) {
    proto::request_msg m;
    m.what = what;
    proto::send_with_fds(control.get(), &m, sizeof m, {}, 0);
    const auto piece = std::make_unique<proto::document_piece>();
    for (std::string document;;) {
        const int e = proto::receive_piece(control.get(), m.serial, base::deadline(10'000), *piece);
        if (e != 0 || piece->head.status != 0) {
            fail("a document", e != 0 ? e : piece->head.status);
        }
        if (piece->content().empty()) {
            return document;
        }
        document += piece->content();
    }
}

client::answer client::request(proto::request_msg m, std::vector<int> fds) {
    proto::send_with_fds(control.get(), &m, sizeof m, fds, 0);
    answer a;
    if (int e = proto::receive_with_fds(control.get(), &a.reply, sizeof a.reply, 0, a.got); e != 0) {
        fail("a reply", e);
    }
    return a;
}

int client::borrow(uint64_t id, int shown, uint32_t flags) {
    proto::request_msg m;
    m.what = proto::kind::borrow;
    m.flags = flags;
    m.id = id;
    auto a = request(m, {shown});
    return a.got.fd_count != 0 ? a.got.fds[0].release() : -a.reply.status;
}

bool client::closed(int limit_ms) const { return (poll_fd(control.get(), 0, limit_ms) & POLLHUP) != 0; }

void client::post_connect(uint32_t job, uint64_t id, const base::address& peer, std::vector<int> fds, uint32_t slot) {
    auto& j = jobs().connect[job];
    j.id = id;
    j.peer = peer;
    j.fd = fds.empty() ? -1 : fds.back();
    j.slot = slot;
    strcpy(j.route, "all");
    j.state.store(shm::slot_posted, std::memory_order_release);
    proto::request_msg m;
    m.what = proto::kind::connect;
    m.slot = job;
    m.id = id;
    proto::send_with_fds(control.get(), &m, sizeof m, fds, 0);
}

shm::new_arena new_memory(uint32_t ring_bytes, uint32_t slots) {
    auto made = std::move(shm::create_arena(slots, ring_bytes).value());
    for (uint32_t i = 0; i < slots; ++i) {
        shm::renew(made.memory.at(i).header());
    }
    return made;
}

conn client::hand_over(int tcp, const base::address& peer, shm::new_arena memory) {
    conn c;
    c.id = next_id();
    auto bell = std::move(shm::make_bell().value());
    shm::prepare_bell(bell.program.get(), c.id);
    c.fd = std::move(bell.program);
    c.arena = std::make_shared<shm::arena>(std::move(memory.memory));
    c.memory = c.arena->at(0);
    shm::bell b = c.end().doorbell;
    while (b.writable()) {
        c.header().ring[0].tokens_sent.fetch_add(1);
        b.send_token();
    }
    uint32_t job = 0;
    while (jobs().connect[job].state.load() != shm::slot_free) {
        job = (job + 1) % shm::connect_slots;
    }
    post_connect(job, c.id, peer, {bell.other.get(), tcp, memory.fd.get()});
    return c;
}

conn client::connect(const base::address& peer, uint32_t ring_bytes) {
    base::unique_fd tcp(::socket(peer.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_storage ss;
    socklen_t len = base::to_sockaddr(peer, ss);
    if (::connect(tcp.get(), reinterpret_cast<sockaddr*>(&ss), len) != 0 && errno != EINPROGRESS) {
        fail("connect");
    }
    return hand_over(tcp.get(), peer, new_memory(ring_bytes));
}

client::listener client::listen(int tcp, uint32_t backlog) {
    proto::request_msg m;
    m.what = proto::kind::listen;
    m.fd = tcp;
    m.backlog = backlog;
    strcpy(m.route, "all");
    auto a = request(m, {tcp});
    listener l;
    l.status = a.reply.status;
    l.id = a.reply.id;
    if (a.got.fd_count == 2) {
        l.door = std::move(a.got.fds[0]);
        l.lifeline = std::move(a.got.fds[1]);
        memcpy(l.word.data(), a.reply.data, l.word.size());
    }
    return l;
}

std::optional<conn> take_accepted(const client::listener& l, int limit_ms) {
    if ((poll_fd(l.get(), POLLIN, limit_ms) & POLLIN) == 0) {
        return std::nullopt;
    }
    conn c;
    c.fd.reset(::accept4(l.get(), nullptr, nullptr, SOCK_CLOEXEC));
    proto::dial_hello h;
    proto::received got;
    if (!c.fd || (poll_fd(c.fd.get(), POLLIN, limit_ms) & POLLIN) == 0 ||
        proto::receive_with_fds(c.fd.get(), &h, sizeof h, MSG_DONTWAIT, got) != 0 || got.fd_count != 1 ||
        h.flags != proto::dial_by_daemon || h.word != l.word) {
        return std::nullopt;
    }
    shm::tune_bell(c.fd.get());
    shm::prepare_bell(c.fd.get(), h.id);
    c.arena = std::make_shared<shm::arena>(std::move(shm::open_arena(got.fds[0].get(), shm::ring_bytes_max).value()));
    c.memory = c.arena->at(h.slot);
    c.id = h.id;
    c.slot = h.shown;
    c.local = h.local;
    c.peer = h.peer;
    c.mark_accepted();
    return c;
}

// --- kernel sockets ---

base::unique_fd tcp_bound() {
    base::unique_fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_storage ss;
    socklen_t len = base::to_sockaddr(base::loopback(AF_INET, 0), ss);
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&ss), len) != 0) {
        fail("bind");
    }
    return fd;
}

tcp_listener tcp_listen(int family, int backlog) {
    tcp_listener l;
    l.fd.reset(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    base::address any = base::parse_address(family == AF_INET ? "127.0.0.1" : "::1").value();
    sockaddr_storage ss;
    socklen_t len = base::to_sockaddr(any, ss);
    if (::bind(l.fd.get(), reinterpret_cast<sockaddr*>(&ss), len) != 0 || ::listen(l.fd.get(), backlog) != 0) {
        fail("listen");
    }
    l.address = base::local_name(l.fd.get());
    return l;
}

base::unique_fd tcp_connect(const base::address& to) {
    base::unique_fd fd(::socket(to.family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_storage ss;
    socklen_t len = base::to_sockaddr(to, ss);
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&ss), len) != 0) {
        fd.reset();
    }
    return fd;
}

base::unique_fd tcp_accept(const tcp_listener& l) {
    if (poll_fd(l.fd.get(), POLLIN, 5000) == 0) {
        throw std::runtime_error("nobody connected");
    }
    return base::unique_fd(::accept4(l.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
}

bytes tcp_read_exactly(int fd, size_t n) {
    bytes b(n);
    for (size_t at = 0; at < n;) {
        ssize_t r = ::recv(fd, b.data() + at, n - at, 0);
        if (r <= 0) {
            fail("recv", r == 0 ? ENODATA : errno);
        }
        at += size_t(r);
    }
    return b;
}

bytes tcp_read_all(int fd) {
    bytes all, part(64 << 10);
    for (;;) {
        ssize_t r = ::recv(fd, part.data(), part.size(), 0);
        if (r < 0) {
            fail("recv");
        }
        if (r == 0) {
            return all;
        }
        all.insert(all.end(), part.begin(), part.begin() + r);
    }
}

void tcp_write_all(int fd, const bytes& b) {
    for (size_t at = 0; at < b.size();) {
        ssize_t r = ::send(fd, b.data() + at, b.size() - at, MSG_NOSIGNAL);
        if (r < 0) {
            fail("send");
        }
        at += size_t(r);
    }
}

echo_server::echo_server(int family) : _listener(tcp_listen(family)) {
    _thread = std::jthread([this](std::stop_token stop) {
        std::vector<std::jthread> all;
        while (!stop.stop_requested()) {
            if (poll_fd(_listener.fd.get(), POLLIN, 20) == 0) {
                continue;
            }
            int fd = ::accept4(_listener.fd.get(), nullptr, nullptr, SOCK_CLOEXEC);
            all.emplace_back([fd] {
                base::unique_fd s(fd);
                bytes b(256 << 10);
                for (ssize_t n; (n = ::recv(fd, b.data(), b.size(), 0)) > 0;) {
                    for (ssize_t at = 0, w; at < n; at += w) {
                        w = ::send(fd, b.data() + at, size_t(n - at), MSG_NOSIGNAL);
                        if (w < 0) {
                            return;
                        }
                    }
                }
            });
        }
    });
}

echo_server::~echo_server() { _thread.request_stop(); }

}  // namespace vmsgr::test
