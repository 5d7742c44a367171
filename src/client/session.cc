#include "client/session.hh"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <sys/un.h>

#include <algorithm>
#include <mutex>

#include "base/random.hh"
#include "base/sys.hh"
#include "base/sockets.hh"
#include "client/kept_fds.hh"
#include "shm/segment.hh"

namespace vmsgr::client {

namespace {

constexpr size_t routes_text_max = 1 << 20;

using locked = std::lock_guard<base::signal_lock>;

// Waits for an answer on the control socket; 0 or an errno.
int receive_within(int sock, void* msg, size_t bytes, const base::deadline& until, proto::received& out) noexcept {
    for (;;) {
        int e = proto::receive_with_fds(sock, msg, bytes, MSG_DONTWAIT, out);
        if (e == 0) {
            return out.bytes == 0 ? ECONNRESET : 0;
        }
        if (e != EAGAIN && e != EINTR) {
            return e;
        }
        const int left_ms = until.left_ms();
        if (left_ms == 0) {
            return ETIMEDOUT;
        }
        pollfd p{sock, POLLIN, 0};
        sys::poll(&p, 1, left_ms);
    }
}

}  // namespace

void session::configure(const char* path, std::string_view program) noexcept {
    proto::copy_text(_path, path);
    proto::copy_text(_program, program);
}

bool session::failed(attach_failure::step at, int errnum) noexcept {
    _failure.at = at;
    _failure.errnum = errnum;
    return false;
}

attach_failure session::last_failure() noexcept {
    locked l(_lock);
    return _failure;
}

bool session::attach() noexcept {
    using step = attach_failure::step;
    if (_control >= 0) {
        return true;
    }
    if (base::now_ms() < _not_before_ms) {
        return false;
    }
    _not_before_ms = base::now_ms() + retry_ms;

    sockaddr_un un;
    uint32_t len = 0;
    if (int e = proto::unix_address(_path, &un, len); e != 0) {
        return failed(step::reach, e);
    }
    base::unique_fd sock(sys::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!sock) {
        return failed(step::local, errno);
    }
    if (sys::connect(sock.get(), &un, len) != 0) {
        return failed(step::reach, errno);  // EAGAIN (its backlog is full) counts as away
    }
    proto::hello_msg hello;
    memcpy(hello.program, _program, sizeof hello.program);
    proto::welcome_msg welcome;
    proto::received got;
    int e = proto::send_with_fds(sock.get(), &hello, sizeof hello, {}, MSG_DONTWAIT);
    if (e == 0) {
        e = receive_within(sock.get(), &welcome, sizeof welcome, base::deadline(attach_timeout_ms), got);
    }
    if (e != 0) {
        _not_before_ms = base::now_ms() + 10 * retry_ms;  // it is there, but stalled: do not stall with it
        return failed(step::answer, e);
    }
    if (got.bytes != sizeof welcome || welcome.magic != proto::control_magic || welcome.what != proto::kind::welcome ||
        welcome.status != 0 || got.fd_count != 2 || welcome.segment_bytes != sizeof(shm::session_segment) ||
        !shm::valid_ring_bytes(welcome.ring_bytes)) {
        _not_before_ms = base::now_ms() + 10 * retry_ms;
        if (got.bytes != sizeof welcome || welcome.magic != proto::control_magic || welcome.status <= 0) {
            return failed(step::version, EPROTO);
        }
        proto::copy_text(_failure.text, std::string_view(welcome.text, strnlen(welcome.text, sizeof welcome.text)));
        return failed(step::refused, welcome.status);
    }
    auto map = shm::map_sealed(got.fds[0].get(), sizeof(shm::session_segment));
    if (!map) {
        return failed(step::local, map.error().errnum);
    }
    auto* segment = reinterpret_cast<shm::session_segment*>(map->data());
    if (segment->magic != shm::session_magic || segment->version != shm::layout_version) {
        return failed(step::version, EPROTO);
    }
    auto listeners = shm::map_published(got.fds[1].get(), sizeof(shm::listening_registry));
    if (!listeners) {
        return failed(step::local, listeners.error().errnum);
    }
    auto* registry = reinterpret_cast<const shm::listening_registry*>(listeners->data());
    if (registry->magic != shm::registry_magic || registry->version != shm::layout_version) {
        return failed(step::version, EPROTO);
    }
    map->release();
    listeners->release();
    _segment.store(segment, std::memory_order_release);
    _registry.store(registry, std::memory_order_release);
    _ring_bytes = welcome.ring_bytes;
    _features = welcome.features;
    _session_id = welcome.session_id;
    _control = sock.release();
    begin();
    return true;
}

void session::begin() noexcept {
    ++_attached;
    _attached_as = ::geteuid();
    keep_fd(&_control);
}

void session::detach() noexcept {
    drop_fd(&_control);
    _not_before_ms = 0;
}

bool session::ensure() noexcept {
    locked l(_lock);
    if (_control >= 0) {
        // Has it hung up since? Nothing comes on this socket but answers, and those are taken under the lock.
        char byte;
        ssize_t r = sys::recv(_control, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        if (r == 0 || (r < 0 && errno != EAGAIN && errno != EINTR)) {
            detach();
        }
    }
    return attach();
}

bool session::ensure_as_self() noexcept {
    const bool attached = ensure();
    locked l(_lock);
    return attached && _attached_as == ::geteuid();
}

int session::send(const proto::request_msg& m, std::span<const int> fds) noexcept {
    int e;
    do {
        e = proto::send_with_fds(_control, &m, sizeof m, fds, MSG_DONTWAIT);
    } while (e == EINTR);
    if (e == EPIPE || e == ECONNRESET || e == ENOTCONN || e == EBADF) {
        detach();
    }
    return e;
}

uint64_t session::id() noexcept {
    locked l(_lock);
    return _session_id;
}

uint64_t session::next_id() noexcept {
    locked l(_lock);
    return _session_id << 32 | ++_ids;
}

// Jobs that the daemon has not taken yet are not in its counts.
bool session::has_room() const noexcept {
    const auto* segment = _segment.load();
    const auto* registry = _registry.load();
    auto room = [segment](const shm::load& l) {
        const uint64_t used = l.used.load(std::memory_order_relaxed), enough = l.enough;
        if (enough == 0 || used + shm::connect_slots < enough) {
            return true;
        }
        auto under_way = std::ranges::count_if(segment->connect, [](const shm::connect_job& j) {
            return j.state.load(std::memory_order_relaxed) != shm::slot_free;
        });
        return used + uint64_t(under_way) < enough;
    };
    return room(segment->connections) && room(registry->connections) && room(registry->descriptors);
}

bool session::post_connect(const job& j, std::span<const int> fds) noexcept {
    locked l(_lock);
    if (!attach() || !has_room()) {
        return false;
    }
    auto* segment = _segment.load();
    for (uint32_t i = 0; i < shm::connect_slots; ++i) {
        auto& slot = segment->connect[i];
        uint32_t expected = shm::slot_free;
        if (!slot.state.compare_exchange_strong(expected, shm::slot_filling, std::memory_order_acquire)) {
            continue;
        }
        slot.fd = j.fd;
        slot.id = j.id;
        slot.peer = j.peer;
        slot.slot = j.slot;
        slot.flags = j.by_trunk
                         ? uint32_t(shm::connect_by_trunk) | uint32_t(*j.by_trunk) << proto::connect_without_trunk_shift
                         : 0;
        proto::copy_text(slot.route, j.route);
        slot.state.store(shm::slot_posted, std::memory_order_release);  // pairs with the daemon's copy
        proto::request_msg m;
        m.what = proto::kind::connect;
        m.slot = i;
        m.id = j.id;
        if (send(m, fds) == 0) {
            segment->connects_routed.fetch_add(1, std::memory_order_relaxed);
            return true;
        }
        slot.state.store(shm::slot_free, std::memory_order_release);
        return false;
    }
    return false;
}

int session::listen(int socket, int shown, std::string_view route, uint32_t flags, int backlog,
                    listening& out) noexcept {
    proto::request_msg m;
    m.what = proto::kind::listen;
    m.fd = shown;
    m.flags = flags;
    m.backlog = uint32_t(std::max(backlog, 0));
    proto::copy_text(m.route, route);
    proto::reply_msg reply;
    proto::received got;
    if (int e = ask(m, {&socket, 1}, reply, got); e != 0) {
        return e;
    }
    if (got.fd_count != 2 || base::not_unix(got.fds[0].get(), SOCK_STREAM) != nullptr ||
        base::socket_option(got.fds[0].get(), SO_ACCEPTCONN) != 1 ||
        base::not_unix(got.fds[1].get(), SOCK_STREAM) != nullptr) {
        return EPROTO;
    }
    out.door = std::move(got.fds[0]);
    out.lifeline = std::move(got.fds[1]);
    memcpy(out.word.data(), reply.data, out.word.size());
    out.id = reply.id;
    _segment.load()->listens_routed.fetch_add(1, std::memory_order_relaxed);
    return 0;
}

void session::unlist(int door) noexcept {
    proto::request_msg m;
    m.what = proto::kind::unlist;
    {
        locked l(_lock);
        if (_control < 0 || send(m, {&door, 1}) != 0) {
            return;
        }
    }
    await_settled();
}

int session::borrow(int shown, uint64_t id, bool plain) noexcept {
    proto::request_msg m;
    m.what = proto::kind::borrow;
    m.id = id;
    m.flags = plain ? uint32_t(proto::borrow_plain) : 0;
    proto::reply_msg reply;
    proto::received got;
    if (int e = ask(m, {&shown, 1}, reply, got); e != 0) {
        return -e;
    }
    return got.fd_count == 1 && base::not_tcp(got.fds[0].get()) == nullptr ? got.fds[0].release() : -EPROTO;
}

void session::deposit(int shown, std::span<const int> left, std::span<const uint8_t> data, uint64_t listener) noexcept {
    proto::request_msg m;
    m.id = listener;
    m.what = proto::kind::deposit;
    memcpy(m.data, data.data(), std::min(data.size(), sizeof m.data));
    int fds[proto::fds_max] = {shown};
    const size_t n = std::min(left.size(), std::size(fds) - 1);
    std::copy_n(left.begin(), n, fds + 1);
    locked l(_lock);
    if (attach()) {
        // A daemon that lags is waited for: what is not deposited is lost for the heir.
        for (int tries = 0; send(m, std::span(fds).first(n + 1)) == EAGAIN && tries < request_timeout_ms; ++tries) {
            pollfd p{_control, POLLOUT, 0};
            sys::poll(&p, 1, 1);
        }
    }
}

void session::await_settled() noexcept {
    proto::request_msg m;
    m.what = proto::kind::settled;
    proto::reply_msg reply;
    proto::received got;
    ask(m, {}, reply, got);
}

int session::adopt(int shown, inherited& out) noexcept {
    proto::request_msg m;
    m.what = proto::kind::adopt;
    proto::reply_msg reply;
    proto::received got;
    if (int e = ask(m, {&shown, 1}, reply, got); e != 0) {
        return e;
    }
    out.fds = std::move(got.fds);
    out.fd_count = got.fd_count;
    memcpy(out.data.data(), reply.data, out.data.size());
    return 0;
}

// A daemon's routes stay as long as it lives.
int session::learn_routes() noexcept {
    if (_routes_of == _attached) {
        return 0;
    }
    proto::request_msg m;
    m.what = proto::kind::routes;
    proto::reply_msg reply;
    proto::received got;
    if (int e = ask_attached(m, {}, reply, got); e != 0) {
        return e;
    }
    const int document = got.fd_count == 1 ? got.fds[0].get() : -1;
    auto bytes = shm::sealed_size(document, 0, routes_text_max);
    auto text = bytes && *bytes != 0 ? shm::map_sealed(document, *bytes) : base::result<shm::mapping>{};
    if (!bytes || !text || !proto::parse_routes({reinterpret_cast<const char*>(text->data()), text->size()}, _routes)) {
        return EPROTO;
    }
    _routes_of = _attached;
    return 0;
}

int session::way(proto::role who, const base::address& a, proto::route& out) noexcept {
    locked l(_lock);
    if (!attach()) {
        return ECONNRESET;
    }
    if (int e = learn_routes(); e != 0) {
        return e;
    }
    const proto::route* r = _routes.match(_program, who, a);
    out = r != nullptr ? *r : proto::route{.way = proto::via::direct};
    return 0;
}

int session::ask(proto::request_msg& m, std::span<const int> fds, proto::reply_msg& reply,
                 proto::received& got) noexcept {
    locked l(_lock);
    return attach() ? ask_attached(m, fds, reply, got) : ENOTCONN;
}

// The lock is held, and the session attached.
int session::ask_attached(proto::request_msg& m, std::span<const int> fds, proto::reply_msg& reply,
                          proto::received& got) noexcept {
    m.serial = ++_serial;
    if (int e = send(m, fds); e != 0) {
        return e;
    }
    const base::deadline until(request_timeout_ms);
    for (;;) {
        if (int e = receive_within(_control, &reply, sizeof reply, until, got); e != 0) {
            // A late answer would be taken for the next one's: the serial tells them apart.
            if (e != ETIMEDOUT) {
                detach();
            }
            return e;
        }
        if (got.bytes != sizeof reply || reply.magic != proto::control_magic || reply.what != proto::kind::reply) {
            detach();
            return EPROTO;
        }
        if (reply.serial == m.serial) {
            return reply.status;
        }
    }
}

void session::forget() noexcept {
    detach();
    if (auto* segment = _segment.exchange(nullptr)) {
        ::munmap(segment, sizeof *segment);
    }
}

}  // namespace vmsgr::client
