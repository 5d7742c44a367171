#include "client/session.hh"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/un.h>

#include <algorithm>

#include "base/random.hh"
#include "base/sys.hh"
#include "client/spin.hh"
#include "shm/segment.hh"

namespace vmsgr::client {

namespace {

constexpr size_t routes_text_max = 1 << 20;

class locked {
    pthread_mutex_t& _m;

public:
    explicit locked(pthread_mutex_t& m) noexcept : _m(m) { pthread_mutex_lock(&_m); }
    ~locked() { pthread_mutex_unlock(&_m); }
};

// Waits for an answer on the control socket; 0 or an errno.
int receive_within(int sock, void* msg, size_t bytes, int timeout_ms, proto::received& out) noexcept {
    int64_t end = now_ms() + timeout_ms;
    for (;;) {
        int e = proto::receive_with_fds(sock, msg, bytes, MSG_DONTWAIT, out);
        if (e == 0) {
            return out.bytes == 0 ? ECONNRESET : 0;
        }
        if (e != EAGAIN && e != EINTR) {
            return e;
        }
        int64_t left = end - now_ms();
        if (left <= 0) {
            return ETIMEDOUT;
        }
        pollfd p{sock, POLLIN, 0};
        sys::poll(&p, 1, int(left));
    }
}

template <size_t N>
void copy_name(char (&to)[N], std::string_view from) noexcept {
    memset(to, 0, N);
    memcpy(to, from.data(), std::min(from.size(), N - 1));
}

void fill(shm::connect_job& slot, const job& j) noexcept {
    slot.peer = j.address;
    slot.ring_bytes = j.ring_bytes;
    slot.flags = j.by_trunk ? uint32_t(shm::connect_by_trunk) : 0;
    slot.listener = j.listener;
}
void fill(shm::listen_job& slot, const job& j) noexcept {
    slot.local = j.address;
    slot.flags = j.listen_flags;
    slot.backlog = j.backlog;
}

}  // namespace

uint64_t random_key() noexcept { return base::random_u64_nonzero(); }

int64_t now_ms() noexcept {
    return now_ns() / 1'000'000;
}

void session::configure(const char* path, std::string_view program, void (*guard)(int& fd),
                        void (*close)(int fd)) noexcept {
    copy_name(_path, path);
    copy_name(_program, program);
    _guard = guard;
    _close = close;
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
    if (now_ms() < _not_before_ms) {
        return false;
    }
    _not_before_ms = now_ms() + retry_ms;

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
        e = receive_within(sock.get(), &welcome, sizeof welcome, attach_timeout_ms, got);
    }
    if (e != 0) {
        _not_before_ms = now_ms() + 10 * retry_ms;  // it is there, but stalled: do not stall with it
        return failed(step::answer, e);
    }
    if (got.bytes != sizeof welcome || welcome.magic != proto::control_magic ||
        welcome.what != proto::kind::welcome || welcome.status != 0 || got.fd_count != 2 ||
        welcome.segment_bytes != sizeof(shm::session_segment) || !shm::valid_ring_bytes(welcome.ring_bytes)) {
        _not_before_ms = now_ms() + 10 * retry_ms;
        if (got.bytes != sizeof welcome || welcome.magic != proto::control_magic || welcome.status <= 0) {
            return failed(step::version, EPROTO);
        }
        copy_name(_failure.text, std::string_view(welcome.text, strnlen(welcome.text, sizeof welcome.text)));
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
    // What an earlier daemon gave stays mapped: another thread may still look at it. One a daemon's life.
    map->release();
    listeners->release();
    _segment = segment;
    _registry = registry;
    _ring_bytes = welcome.ring_bytes;
    _features = welcome.features;
    _control = sock.release();
    ++_attached;
    _guard(_control);
    return true;
}

void session::detach() noexcept {
    int fd = std::exchange(_control, -1);
    if (fd >= 0) {
        _close(fd);
    }
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

template <typename Slot>
bool session::post(Slot* slots, uint32_t count, proto::kind what, const job& j, std::span<const int> fds) noexcept {
    for (uint32_t i = 0; i < count; ++i) {
        Slot& slot = slots[i];
        uint32_t expected = shm::slot_free;
        if (!slot.state.compare_exchange_strong(expected, shm::slot_filling, std::memory_order_acquire)) {
            continue;
        }
        slot.fd = j.fd;
        slot.key = j.key;
        copy_name(slot.route, j.route);
        fill(slot, j);
        slot.state.store(shm::slot_posted, std::memory_order_release);  // pairs with the daemon's copy
        proto::request_msg m;
        m.what = what;
        m.slot = i;
        m.key = j.key;
        if (send(m, fds) == 0) {
            return true;
        }
        slot.state.store(shm::slot_free, std::memory_order_release);
        return false;
    }
    return false;
}

// Jobs that the daemon has not taken yet are not in its counts.
bool session::has_room() const noexcept {
    auto room = [this](const shm::load& l) {
        const uint64_t used = l.used.load(std::memory_order_relaxed), enough = l.enough;
        if (enough == 0 || used + shm::connect_slots < enough) {
            return true;
        }
        auto under_way = std::ranges::count_if(_segment->connect, [](const shm::connect_job& j) {
            return j.state.load(std::memory_order_relaxed) != shm::slot_free;
        });
        return used + uint64_t(under_way) < enough;
    };
    return room(_segment->connections) && room(_registry->connections) && room(_registry->descriptors);
}

template <typename Score>
uint64_t session::best_listener(uint16_t port, Score&& score_of) const noexcept {
    uint64_t best = 0;
    int best_score = 0;
    uint32_t used = std::min(_registry->used.load(std::memory_order_acquire), shm::registry_slots);
    for (uint32_t i = 0; i < used; ++i) {
        const shm::listening_entry& e = _registry->entry[i];
        uint64_t key = e.key.load(std::memory_order_acquire);
        if (key == 0 || e.address.port != port) {
            continue;
        }
        int score = score_of(e);
        bool full = e.waiting.load(std::memory_order_relaxed) > e.backlog;
        std::atomic_thread_fence(std::memory_order_acquire);
        if (score > best_score && e.key.load(std::memory_order_relaxed) == key) {
            best = full ? 0 : key;
            best_score = score;
        }
    }
    return best;
}

uint64_t session::find_listener(uint64_t netns, const base::address& peer) noexcept {
    locked l(_lock);
    if (_control < 0 || netns == 0 || !has_room()) {
        return 0;
    }
    const base::address to = peer.unmapped();
    return best_listener(to.port, [&](auto& e) { return e.netns == netns ? e.score_for(to) : 0; });
}

uint64_t session::find_listener_elsewhere(uint64_t netns, const base::address& peer) noexcept {
    locked l(_lock);
    const base::address to = peer.unmapped();
    if (_control < 0 || netns == 0 || (_registry->flags & shm::registry_one_address_plan) == 0 || to.is_any() ||
        to.is_loopback() || !has_room()) {
        return 0;
    }
    return best_listener(to.port, [&](auto& e) { return e.netns != netns && e.address.unmapped() == to ? 1 : 0; });
}

uint64_t session::current() noexcept {
    locked l(_lock);
    return _attached;
}

bool session::post_connect(const job& j, std::span<const int> fds) noexcept {
    locked l(_lock);
    if (_control < 0 || (j.session != 0 && j.session != _attached) || !has_room() ||
        !post(_segment->connect, shm::connect_slots, proto::kind::connect, j, fds)) {
        return false;
    }
    _segment->connects_routed.fetch_add(1, std::memory_order_relaxed);
    return true;
}

bool session::post_listen(const job& j, int socket, int bell) noexcept {
    locked l(_lock);
    const int fds[] = {socket, bell};
    if (_control < 0 || !post(_segment->listen, shm::listen_slots, proto::kind::listen, j, fds)) {
        return false;
    }
    _segment->listens_routed.fetch_add(1, std::memory_order_relaxed);
    return true;
}

int session::borrow(uint64_t key) noexcept {
    base::unique_fd socket;
    int e = request(proto::kind::borrow, key, {&socket, 1});
    return e == 0 ? socket.release() : -e;
}

int session::adopt(uint64_t key, base::unique_fd& memory, base::unique_fd& page) noexcept {
    base::unique_fd both[2];
    int e = request(proto::kind::adopt, key, both);
    memory = std::move(both[0]);
    page = std::move(both[1]);
    return e;
}

int session::request(proto::kind what, uint64_t key, std::span<base::unique_fd> answer) noexcept {
    locked l(_lock);
    return attach() ? ask(what, key, answer) : ENOTCONN;
}

// A daemon's routes stay as long as it lives.
int session::learn_routes() noexcept {
    if (_routes_of == _attached) {
        return 0;
    }
    base::unique_fd document;
    if (int e = ask(proto::kind::routes, random_key(), {&document, 1}); e != 0) {
        return e;
    }
    auto bytes = shm::sealed_size(document.get(), 0, routes_text_max);
    auto text = bytes && *bytes != 0 ? shm::map_sealed(document.get(), *bytes) : base::result<shm::mapping>{};
    if (!bytes || !text ||
        !proto::parse_routes({reinterpret_cast<const char*>(text->data()), text->size()}, _routes)) {
        return EPROTO;
    }
    _routes_of = _attached;
    return 0;
}

int session::way(proto::role who, const base::address& a, proto::via& out) noexcept {
    locked l(_lock);
    if (!attach()) {
        return ECONNRESET;
    }
    if (int e = learn_routes(); e != 0) {
        return e;
    }
    const proto::route* r = _routes.match(_program, who, a);
    out = r != nullptr ? r->way : proto::via::direct;
    return 0;
}

// The lock is held, and the session attached.
int session::ask(proto::kind what, uint64_t key, std::span<base::unique_fd> answer) noexcept {
    proto::request_msg m;
    m.what = what;
    m.key = key;
    if (int e = send(m, {}); e != 0) {
        return e;
    }
    int64_t end = now_ms() + request_timeout_ms;
    for (;;) {
        proto::reply_msg reply;
        proto::received got;
        int e = receive_within(_control, &reply, sizeof reply, int(std::max<int64_t>(end - now_ms(), 0)), got);
        if (e != 0) {
            // The late answer would be taken for the next one's: its key tells them apart.
            if (e != ETIMEDOUT) {
                detach();
            }
            return e;
        }
        if (got.bytes != sizeof reply || reply.magic != proto::control_magic || reply.what != proto::kind::reply) {
            detach();
            return EPROTO;
        }
        if (reply.key != key) {
            continue;
        }
        if (reply.status != 0) {
            return reply.status;
        }
        if (got.fd_count != answer.size()) {
            return EPROTO;
        }
        std::move(got.fds.begin(), got.fds.begin() + answer.size(), answer.begin());
        return 0;
    }
}

void session::show_fd(uint32_t slot, uint64_t key, int fd) noexcept {
    locked l(_lock);
    if (_segment != nullptr && slot < shm::connected_slots && _segment->connected[slot].key == key) {
        _segment->connected[slot].fd.store(fd, std::memory_order_relaxed);
    }
}

void session::count_fall_back() noexcept {
    locked l(_lock);
    if (_segment != nullptr) {
        _segment->fell_back.fetch_add(1, std::memory_order_relaxed);
    }
}

void session::count_local_left() noexcept {
    locked l(_lock);
    if (_segment != nullptr) {
        _segment->locals_left.fetch_add(1, std::memory_order_relaxed);
    }
}

bool session::move_away(int fd) noexcept {
    locked l(_lock);
    if (_control != fd) {
        return false;
    }
    int moved = sys::fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (moved < 0) {
        detach();
        return true;
    }
    _guard(moved);
    _close(std::exchange(_control, moved));
    return true;
}

void session::forget() noexcept {
    pthread_mutex_init(&_lock, nullptr);
    detach();
    if (_segment != nullptr) {
        ::munmap(_segment, sizeof *_segment);
        _segment = nullptr;
    }
}

}  // namespace vmsgr::client
