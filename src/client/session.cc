#include "client/session.hh"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <mutex>

#include "base/random.hh"
#include "base/sys.hh"
#include "base/sockets.hh"
#include "client/kept_fds.hh"
#include "shm/segment.hh"

namespace vmsgr::client {

namespace {

using locked = std::lock_guard<base::signal_lock>;

}  // namespace

void session::configure(const char* path, std::string_view program, uint64_t features) noexcept {
    _offered = features;
    proto::copy_text(_path, path);
    proto::copy_text(_program, program);
}

bool session::failed(proto::attach_failure::step at, int errnum) noexcept {
    _failure = {.at = at, .errnum = errnum};
    return false;
}

proto::attach_failure session::last_failure() noexcept {
    locked l(_lock);
    return _failure;
}

bool session::attach() noexcept {
    if (_control >= 0) {
        return true;
    }
    if (base::now_ms() < _not_before_ms) {
        return false;
    }
    _not_before_ms = base::now_ms() + retry_ms;
    auto a = proto::attach(_path, {.session = proto::session_kind::program,
                                   .program = _program,
                                   .answer_ms = attach_timeout_ms,
                                   .backlog_ms = attach_timeout_ms,
                                   .features = _offered});
    if (!a) {
        _failure = a.error();
    }
    const bool attached = a && begin(*a);
    using step = proto::attach_failure::step;
    const bool stalls = _failure.at > step::reach || (_failure.at == step::reach && _failure.errnum == EAGAIN);
    if (!attached && stalls) {
        _not_before_ms = base::now_ms() + 10 * retry_ms;  // it is there, but stalled: do not stall with it
    }
    return attached;
}

// False: what came with the welcome is not what this library knows.
bool session::begin(proto::attached& a) noexcept {
    using step = proto::attach_failure::step;
    const auto& welcome = a.welcome;
    if (a.with.fd_count != 2 || welcome.segment_bytes != sizeof(shm::session_segment) ||
        !shm::valid_ring_bytes(welcome.ring_bytes)) {
        return failed(step::version, EPROTO);
    }
    auto map = shm::map_sealed(a.with.fds[0].get(), sizeof(shm::session_segment));
    if (!map) {
        return failed(step::local, map.error().errnum);
    }
    auto* segment = reinterpret_cast<shm::session_segment*>(map->data());
    if (segment->magic != shm::session_magic || segment->version != shm::layout_version) {
        return failed(step::version, EPROTO);
    }
    if (!set_registry(a.with.fds[1].get(), segment->registry.load(std::memory_order_acquire))) {
        return false;
    }
    map->release();
    _segment.store(segment, std::memory_order_release);
    _ring_bytes = welcome.ring_bytes;
    _features = welcome.features;
    _session_id = welcome.session_id;
    _control = a.socket.release();
    ++_attached;
    _attached_as = ::geteuid();
    keep_fd(&_control);
    return true;
}

bool session::set_registry(int fd, uint16_t turn) noexcept {
    using step = proto::attach_failure::step;
    auto listeners = shm::map_published(fd, sizeof(shm::listening_registry));
    if (!listeners) {
        return failed(step::local, listeners.error().errnum);
    }
    auto* registry = reinterpret_cast<const shm::listening_registry*>(listeners->data());
    if (registry->magic != shm::registry_magic || registry->version != shm::layout_version) {
        return failed(step::version, EPROTO);
    }
    listeners->release();
    _registry.store(registry, std::memory_order_release);
    _registry_turn.store(turn, std::memory_order_release);
    return true;
}

// The daemon was upgraded, and has another one. False: it did not give it.
bool session::has_registry() noexcept {
    const auto* segment = _segment.load(std::memory_order_acquire);
    if (segment == nullptr || segment->registry.load(std::memory_order_acquire) == _registry_turn.load()) {
        return true;
    }
    proto::request_msg m;
    m.what = proto::kind::registry;
    proto::reply_msg reply;
    proto::received got;
    return ask_attached(m, {}, reply, got) == 0 && got.fd_count == 1 &&
           set_registry(got.fds[0].get(), uint16_t(reply.id));
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
    // A session without the list of listeners would never find one: better a new session.
    if (attach() && !has_registry() && _control >= 0) {
        detach();
    }
    return attach();
}

bool session::ensure_as_self() noexcept {
    const bool attached = ensure();
    locked l(_lock);
    return attached && _attached_as == ::geteuid();
}

int session::send(const proto::request_msg& m, std::span<const int> fds) noexcept {
    const int e = proto::send_request(_control, m, fds);
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
    if (!attach() || !has_room() || (j.own_linger && !knows_end_marks())) {
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
        if (j.own_linger) {
            slot.flags |= uint32_t(shm::connect_end_mark);
            slot.linger[0] = j.own_linger->l_onoff;
            slot.linger[1] = j.own_linger->l_linger;
        }
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
    for (uint64_t attached = 0;;) {
        {
            locked l(_lock);
            if (_control < 0 || _attached == attached || send(m, {&door, 1}) != 0) {
                return;
            }
            attached = _attached;
        }
        await_settled();  // in another session, where a worker has died with our message in its hands
    }
}

int session::borrow(int shown, uint64_t id, bool plain) noexcept {
    proto::request_msg m;
    m.what = proto::kind::borrow;
    m.id = id;
    m.flags = plain ? uint32_t(proto::borrow_plain) : 0;
    return ask_for_socket(m, shown);
}

int session::go_back(int shown, uint64_t id) noexcept {
    proto::request_msg m;
    m.what = proto::kind::go_back;
    m.id = id;
    return ask_for_socket(m, shown);
}

int session::ask_for_socket(proto::request_msg& m, int shown) noexcept {
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
    m.serial = ++_serial;
    if (int e = send(m, {}); e != 0) {
        return e;
    }
    _routes.count = 0;
    const base::deadline until(request_timeout_ms);
    for (bool first = true;; first = false) {
        int e = proto::receive_piece(_control, m.serial, until, _piece);
        const auto text = _piece.content();
        if (e == 0 && _piece.head.status == 0 && !text.empty() && !(first && proto::parse_routes(text, _routes))) {
            e = EPROTO;  // no routes, or more than one piece of them
        }
        if (e != 0 && e != ETIMEDOUT) {
            detach();
        }
        if (e != 0 || _piece.head.status != 0) {
            return e != 0 ? e : _piece.head.status;
        }
        if (text.empty()) {
            _routes_of = _attached;
            return 0;
        }
    }
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
    if (!attach()) {
        return ENOTCONN;
    }
    const int e = ask_attached(m, fds, reply, got);
    // A worker that died with the request in its hands has ended the session: the next one is asked.
    const bool hung_up = e == ECONNRESET || e == EPIPE;
    return hung_up && _control < 0 && attach() ? ask_attached(m, fds, reply, got) : e;
}

// The lock is held, and the session attached.
int session::ask_attached(proto::request_msg& m, std::span<const int> fds, proto::reply_msg& reply,
                          proto::received& got) noexcept {
    m.serial = ++_serial;
    if (int e = send(m, fds); e != 0) {
        return e;
    }
    const int e = proto::receive_reply(_control, m.serial, base::deadline(request_timeout_ms), reply, got);
    if (e != 0 && e != ETIMEDOUT) {
        detach();
    }
    return e != 0 ? e : reply.status;
}

void session::forget() noexcept {
    detach();
    if (auto* segment = _segment.exchange(nullptr)) {
        ::munmap(segment, sizeof *segment);
    }
}

}  // namespace vmsgr::client
