#include "attach/session.hh"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include <seastar/core/coroutine.hh>
#include <seastar/coroutine/maybe_yield.hh>
#include <seastar/util/defer.hh>

#include "base/sockets.hh"
#include "base/text.hh"
#include "conn/log.hh"

namespace vmsgr::attach {

namespace {

constexpr auto hello_limit = std::chrono::seconds(2);
// Of a client that reads a document, without any progress.
constexpr auto piece_limit = std::chrono::seconds(10);
// What the kernel keeps of answers that are not read; it doubles that.
constexpr int answer_buffer_bytes = 64 << 10;

base::result<base::unique_fd> new_segment(uint64_t id, shm::mapping& map) {
    constexpr size_t bytes = sizeof(shm::session_segment);
    auto fd = shm::create_sealed("vmsgr-session", bytes);
    if (!fd) {
        return fd;
    }
    auto m = shm::map_sealed(fd->get(), bytes);
    if (!m) {
        return std::unexpected(m.error());
    }
    auto& s = *reinterpret_cast<shm::session_segment*>(m->data());  // new memory is zero
    s.magic = shm::session_magic;
    s.version = shm::layout_version;
    s.bytes = bytes;
    s.session_id = id;
    map = std::move(*m);
    return fd;
}

}  // namespace

session::session(control_server& server, const peer_identity& who, conn::user_ptr user, conn::lease fds)
    : _server(server), _who(who), _user(std::move(user)), _fds(std::move(fds)) {
    _hello_timer.set_callback([this] { break_rules(conn::fault::bad_hello, "said nothing for 2 s"); });
    _piece_timer.set_callback(
        [this] { break_rules(conn::fault::answers_not_read, "asks and does not read the answer"); });
}

void session::begin_with(base::unique_fd sock) noexcept {
    _sock = std::move(sock);
    ::setsockopt(_sock.get(), SOL_SOCKET, SO_SNDBUF, &answer_buffer_bytes, sizeof answer_buffer_bytes);
}

session::~session() {
    _events.reset();
    if (_entry != nullptr) {
        ::shutdown(_sock.get(), SHUT_RDWR);
        conn::kept_descriptors fds;
        fds[keeper::kept_control] = std::move(_sock);
        _server.deps().carriers.local().close_when_back(*_entry, std::move(fds), _user);
    } else if (_sock) {
        _server.let_go_of_client(_sock, *_user);
    }
}

void session::drop(proto::received& got) noexcept {
    for (auto& fd : got.fds) {
        _server.let_go(fd, *_user);
    }
    got.fd_count = 0;
}

void session::close() noexcept {
    _closed = true;
    _point.wake();
}

seastar::future<> session::run() {
    auto events = _server.deps().carriers.local().events().add(_sock.get(), *this);
    if (!events) {
        if (_program) {
            _server.program_ended(*_program);
        }
        co_return;
    }
    _events = std::move(*events);
    {
        auto ended = seastar::defer([this]() noexcept { end_program(); });
        try {
            if (_entry == nullptr) {
                co_await greet();
                _server.greeted(this);
            } else {
                begin_program();
            }
            co_await serve();
        } catch (const std::bad_alloc&) {
            ++_server.count().no_memory;
        }
    }
    co_await await_last_read();
    co_await take_back();
    _events.reset();
}

void session::begin_program() {
    _server.program_attached(*this);
    if (show_room()) {
        _server.show_room_again();
    }
}

void session::end_program() noexcept {
    _hello_timer.cancel();
    if (_program) {
        _server.program_ended(*_program);
        log.debug("session {} of {} (pid {}) ended", _program->session_id, _program->name, _program->pid);
    }
}

seastar::future<> session::serve() {
    while (!_closed) {
        proto::request_msg m;
        proto::received got;
        auto dropped = seastar::defer([&]() noexcept { drop(got); });
        hand_over();
        if (!co_await next(&m, sizeof m, got)) {
            break;
        }
        note_pending(m);
        const control_server::request under_way(_server);
        if (got.lost && _program && got.bytes == sizeof m && m.magic == proto::control_magic) {
            fail_for_descriptors(m);
            note_done();
            co_await seastar::coroutine::maybe_yield();
            continue;
        }
        const auto kind = _program ? proto::session_kind::program : proto::session_kind::query;
        if (auto broken = proto::check_request(m, {got.bytes, got.fd_count, got.truncated}, kind)) {
            break_rules(*broken);
            break;
        }
        bool failed = false;
        try {
            co_await handle(m, got);
        } catch (const std::bad_alloc&) {
            failed = true;
        }
        if (failed) {
            fail_for_memory(m);
        }
        note_done();
        co_await seastar::coroutine::maybe_yield();
    }
}

// A descriptor that a client does not read counts to the daemon's user, beyond the end of the session: the kernel lets
// nobody send more of them than RLIMIT_NOFILE.
size_t session::unread_bytes() noexcept {
    const size_t bytes = base::unread_by_peer(_sock.get());
    if (bytes == 0 && std::exchange(_unread, 0) != 0) {
        _in_flight = {};
    }
    return bytes;
}

seastar::future<> session::room_for_answers() {
    while (!_closed) {
        _point.clear();
        if (unread_bytes() <= size_t(answer_buffer_bytes) / 2 && _unread < answers_unread_max) {
            co_return;
        }
        co_await _point.wait();
    }
}

seastar::future<> session::await_last_read() {
    ::shutdown(_sock.get(), SHUT_RDWR);
    while (!_server.stops() && _unread != 0) {
        _point.clear();
        if (unread_bytes() != 0) {
            co_await _point.wait();
        }
    }
}

// The request fails, and the session goes on.
void session::fail_for_memory(const proto::request_msg& m) {
    ++_server.count().no_memory;
    if (proto::has_answer(m.what)) {
        reply(m, ENOMEM);
    }
}

seastar::future<bool> session::next(void* into, size_t bytes, proto::received& got) {
    while (!_closed) {
        co_await _server.room_to_close(*_user);
        co_await room_for_answers();
        _point.clear();
        if (_server.rests() && _entry != nullptr) {
            co_await _point.wait();
            continue;
        }
        note_receiving();
        int err = proto::receive_with_fds(_sock.get(), into, bytes, MSG_DONTWAIT, got, this);
        if (err != 0) {
            note_done();
        }
        if (err == 0) {
            if (got.bytes == 0) {
                drop(got);
            }
            co_return got.bytes != 0;
        }
        if (err != EAGAIN && err != EINTR) {
            co_return false;
        }
        if (err == EAGAIN) {
            co_await _point.wait();
        }
    }
    co_return false;
}

seastar::future<> session::greet() {
    _hello_timer.arm(hello_limit);
    std::array<std::byte, 256> bytes;
    proto::received got;
    if (!co_await next(bytes.data(), bytes.size(), got)) {
        _closed = true;
        co_return;
    }
    _hello_timer.cancel();
    const size_t n = got.bytes;
    drop(got);
    on_hello(std::span(bytes).first(n));
}

void session::on_hello(std::span<const std::byte> bytes) {
    using enum proto::hello_fault;
    proto::hello_msg hello;
    switch (proto::read_hello(bytes, hello)) {
    case too_short: break_rules(conn::fault::bad_hello, "a hello that is too short"); return;
    case no_hello: break_rules(conn::fault::bad_hello, "no hello at first"); return;
    case wrong_length: break_rules(conn::fault::bad_hello, "a hello of a wrong length"); return;
    case unknown_kind: break_rules(conn::fault::bad_hello, "a hello for a session of an unknown kind"); return;
    case other_version:
        refuse(EPROTO, "vmsgrd " + std::string(proto::version_text) + " speaks version " +
                           std::to_string(proto::control_version) +
                           " of the control protocol, this program's library version " + std::to_string(hello.version) +
                           "; install the same vmsgr for both");
        return;
    case none: break;
    }
    if (!may_attach(_server.deps().config.access, _sock.get(), _who)) {
        refuse(EACCES, "user " + std::to_string(_who.uid) + " may not attach; see access in vmsgrd's configuration");
    } else if (_place = conn::lease::take(_server.deps().budget.sessions, _user->of.sessions); !_place) {
        auto& mine = _user->of.sessions;
        const bool all = mine.used() < mine.limit();
        refuse(EAGAIN, std::string("vmsgrd serves as many programs ") + (all ? "" : "of this user ") +
                           "as it may; see limits." + (all ? "" : "per_user.") + "sessions (" +
                           std::to_string((all ? _server.deps().budget.sessions : mine).limit()) + ")");
    } else {
        welcome(hello);
    }
}

void session::welcome(const proto::hello_msg& hello) {
    proto::welcome_msg w;
    w.features = hello.features & proto::features_known;
    w.session_id = _server.next_session_id();
    w.ring_bytes = _server.deps().config.limits.ring_bytes;
    base::unique_fd segment;
    conn::lease flies;
    if (hello.session == proto::session_kind::program) {
        shm::mapping map;
        _map = conn::lease::take(_server.deps().budget.maps, _user->of.maps);
        if (!_map) {
            refuse(ENOMEM, "vmsgrd has no memory mapping left for a session; raise vm.max_map_count (sysctl)");
            return;
        }
        auto in = in_flight(2);
        if (!in) {
            refuse(EAGAIN,
                   "too many descriptors that vmsgrd has sent are not received yet; raise LimitNOFILE or ulimit -n");
            return;
        }
        flies = std::move(*in);
        auto fd = new_segment(w.session_id, map);
        if (!fd) {
            refuse(fd.error().errnum, "no memory for a session: " + fd.error().text);
            return;
        }
        reinterpret_cast<shm::session_segment*>(map.data())->registry.store(_server.deps().registry.turn());
        segment = std::move(*fd);
        w.segment_bytes = sizeof(shm::session_segment);
        _program = std::make_shared<conn::program>(
            w.session_id, _who.pid, _user, base::printable(hello.program, sizeof hello.program), w.features,
            _server.deps().config.limits.connections_per_session, std::move(map));
        begin_program();
        log.debug("session {}: {} (pid {}, user {})", w.session_id, _program->name, _who.pid, _who.uid);
    }
    const int fds[] = {segment.get(), _server.deps().registry.fd()};
    const auto rights = segment ? std::span(fds) : std::span<const int>{};
    if (send_answer(&w, sizeof w, rights, std::move(flies)) != 0) {
        _closed = true;
    }
    _segment = std::move(segment);
}

seastar::future<> session::send_piece(const proto::document_piece& piece) {
    _piece_timer.rearm(seastar::lowres_clock::now() + piece_limit);
    auto done = seastar::defer([this]() noexcept { _piece_timer.cancel(); });
    while (!_closed) {
        _point.clear();
        const int err = proto::send_with_fds(_sock.get(), &piece, piece.bytes(), {}, MSG_DONTWAIT);
        if (err == 0) {
            co_return;
        }
        if (err == EAGAIN) {
            co_await _point.wait();
        } else if (err != EINTR) {
            break;
        }
    }
    throw reader_gone();
}

void session::refuse(int err, const std::string& text) {
    ++_server.count().refused;
    proto::welcome_msg w;
    w.status = err;
    snprintf(w.text, sizeof w.text, "%s", text.c_str());
    proto::send_with_fds(_sock.get(), &w, sizeof w, {}, MSG_DONTWAIT);
    close();
}

void session::break_rules(const proto::broken_rule& rule) {
    switch (rule.which) {
    case proto::rule::message: return break_rules(conn::fault::bad_message, rule.text);
    case proto::rule::job: return break_rules(conn::fault::bad_job, rule.text);
    case proto::rule::descriptor: return break_rules(conn::fault::bad_descriptor, rule.text);
    }
}

void session::break_rules(conn::fault why, std::string_view text) {
    static thread_local conn::log_limits limits;
    _server.count().count(why);
    close();
    log.log(seastar::log_level::warn, limits.of(why), "pid {} (user {}): {}: {}; its session is closed", _who.pid,
            _who.uid, conn::to_text(why), text);
}

}  // namespace vmsgr::attach
