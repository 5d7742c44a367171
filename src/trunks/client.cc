#include "trunks/client.hh"

#include <errno.h>
#include <sys/socket.h>

#include <seastar/core/coroutine.hh>
#include <seastar/core/internal/pollable_fd.hh>
#include <seastar/core/smp.hh>
#include <seastar/coroutine/as_future.hh>
#include <seastar/util/defer.hh>

#include "conn/kernel_socket.hh"
#include "ssx/pause.hh"
#include "trunks/log.hh"

namespace vmsgr::trunks {

namespace {

constexpr auto first_pause = std::chrono::milliseconds(10);
constexpr unsigned first_pauses = 30;  // a peer that is upgraded is back by then
constexpr auto longest_pause = std::chrono::milliseconds(1000);

}  // namespace

client::client(environment& env, conf::trunk_peer p, bool learnt)
    : _env(env),
      _peer(std::move(p)),
      _learnt(learnt),
      _patience(learnt ? std::chrono::milliseconds(env.config.probe.timeout_ms) : greeting_limit) {}

bool client::reaches(const base::address& destination) const noexcept {
    return !_retired &&
           std::ranges::any_of(_peer.addresses, [&](const base::prefix& p) { return p.contains(destination); });
}

void client::retire() noexcept {
    _retired = true;
    if (unused()) {
        interrupt();
    }
}

void client::interrupt() noexcept {
    if (_link != nullptr) {
        _link->shut();
    }
    if (_connecting >= 0) {
        ::shutdown(_connecting, SHUT_RDWR);
    }
}

seastar::future<> client::run() {
    auto pause = std::chrono::milliseconds(0);
    unsigned pauses = 0;
    while (!_env.stop.abort_requested()) {
        auto done = co_await seastar::coroutine::as_future(attempt());
        const bool failed = done.failed();
        if (failed) {
            report_down(done.get_exception());
        } else if (done.get()) {
            pause = std::chrono::milliseconds(0);
            pauses = 0;
        }
        if (_session && _session->ended()) {
            _session = nullptr;
        }
        if (_retired && unused()) {
            _absent = true;
            break;
        }
        if (_learnt && failed && !_session) {
            ++_env.carriers.local().count().probes_absent;
            _absent_until = seastar::lowres_clock::now() + std::chrono::seconds(_env.config.probe.absent_s);
            _absent = true;
            break;
        }
        co_await ssx::pause(pause, _env.stop);
        pause = ++pauses < first_pauses ? first_pause : std::min(pause * 2, longest_pause);
    }
}

// Each reason once: another one may be what has to be changed.
void client::report_down(std::exception_ptr e) {
    std::string reason = fmt::to_string(e);
    const bool said = reason == _down_reason || _learnt;
    const auto level = said ? seastar::log_level::debug : seastar::log_level::warn;
    log.log(level, "trunk {}: no connection to {}: {}; trying again", _peer.name, base::to_string(_peer.connect),
            reason);
    _down_reason = std::move(reason);
}

seastar::future<base::unique_fd> client::connect() {
    sockaddr_storage ss{};
    socklen_t len = base::to_sockaddr(_peer.connect, ss);
    base::unique_fd fd(::socket(_peer.connect.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    seastar::throw_system_error_on(!fd, "socket");
    base::unique_fd handle = conn::duplicate(fd.get());
    seastar::pollable_fd pollable(seastar::file_desc::from_fd(fd.release()));
    if (::connect(handle.get(), reinterpret_cast<sockaddr*>(&ss), len) != 0) {
        seastar::throw_system_error_on(errno != EINPROGRESS, "connect");
        seastar::timer<seastar::lowres_clock> limit([&] { ::shutdown(handle.get(), SHUT_RDWR); });
        limit.arm(_patience);
        _connecting = handle.get();
        auto waited = co_await seastar::coroutine::as_future(pollable.writeable());
        _connecting = -1;
        waited.ignore_ready_future();
    }
    if (int err = conn::take_socket_error(handle.get()); err != 0) {
        throw std::system_error(err, std::generic_category(), "connect");
    }
    if (conn::connect_progress(handle.get()) != conn::progress::up) {
        throw std::system_error(ETIMEDOUT, std::generic_category(), "connect");
    }
    pollable.close();
    std::byte greeting[trunk::greeting_bytes];
    trunk::put_greeting(greeting, uint16_t(seastar::this_shard_id()));
    seastar::throw_system_error_on(::send(handle.get(), greeting, sizeof greeting, MSG_NOSIGNAL) != sizeof greeting,
                                   "send");
    co_return handle;
}

seastar::future<bool> client::attempt() {
    auto fds = conn::lease::take(_env.budget.fds, fds_per_link);
    if (!fds) {
        throw std::runtime_error("no descriptors are left for it; raise LimitNOFILE or ulimit -n");
    }
    auto fd = co_await connect();
    link l;
    auto ran = co_await seastar::coroutine::as_future(converse(l, std::move(fd)));
    l.shut();
    co_await l.close();
    co_return co_await std::move(ran);
}

seastar::future<bool> client::converse(link& l, base::unique_fd fd) {
    auto hands = co_await shake_hands(l, std::move(fd));
    if (!hands) {
        co_return false;
    }
    if (!std::exchange(_down_reason, {}).empty()) {
        log.info("trunk {}: connected to {}", _peer.name, base::to_string(_peer.connect));
    }
    auto session = _session;
    co_await session->run_on(std::move(hands->turn), hands->peer_ack, hands->cover);
    co_return true;
}

// TLS, if there is. The cookie of a session is shown to nobody but the one with whom it began.
seastar::future<> client::start(link& l, base::unique_fd fd) {
    auto started = co_await seastar::coroutine::as_future(
        l.start(std::move(fd), _env.tls, {.dials = true, .wanted = _learnt ? std::string() : _peer.name}));
    if (started.failed()) {
        auto why = started.get_exception();
        if (const auto refused = refusal_of(why)) {
            count(*refused);
        }
        std::rethrow_exception(why);
    }
    if (_session && _session->who.proof.identity != l.peer().identity) {
        count(trunk::refusal::name);
        _session->end(ECONNRESET);
        throw wrong_peer("the peer is " + l.peer().identity + " now, and was " + _session->who.proof.identity);
    }
}

seastar::future<std::optional<client::agreed>> client::shake_hands(link& l, base::unique_fd fd) {
    _link = &l;
    auto leave = seastar::defer([this]() noexcept { _link = nullptr; });
    seastar::timer<seastar::lowres_clock> limit([&] { l.shut(); });
    limit.arm(_patience);
    co_await start(l, std::move(fd));
    std::optional<trunk_session::turn> turn;
    std::optional<trunk::known_session> known;
    if (_session) {
        turn = co_await _session->take_turn(l);
        if (!turn) {
            co_return std::nullopt;  // it has ended meanwhile
        }
        known = _session->known();
    }
    const auto asked = trunk::ask(_env.terms, uint16_t(seastar::this_shard_id()), known ? &*known : nullptr, l.below());
    co_await l.send(asked);
    const auto answer = co_await l.receive_hello();
    if (!answer) {
        _count.count(answer.error());
        throw std::runtime_error("its answer is no hello (" + std::string(to_text(answer.error())) + ")");
    }
    switch (trunk::judge_answer(asked, *answer)) {
    case trunk::answer_kind::continues: break;
    case trunk::answer_kind::begins:
        begin_session(*answer, l);
        turn = co_await _session->take_turn(l);
        break;
    case trunk::answer_kind::lost:
        log.warn("trunk {}: the peer has restarted or given up; {} channels are reset", _peer.name,
                 _session->engine().channels());
        _session->end(ECONNRESET);
        co_return std::nullopt;
    case trunk::answer_kind::refused:
        throw std::runtime_error("it refuses: " + std::string(to_text(answer->body.answer)));
    case trunk::answer_kind::wrong:
        _count.count(trunk::packet_fault::cookie);
        throw std::runtime_error("its answer does not fit what was asked");
    }
    if (!turn) {
        co_return std::nullopt;
    }
    co_return agreed{std::move(*turn), answer->ack, trunk::crc_cover_of(asked, *answer)};
}

void client::begin_session(const trunk::hello& answer, const link& l) {
    _session = seastar::make_lw_shared<trunk_session>(
        answer.session,
        trunk_session::identity{_peer.name, l.peer(), answer.body.node, uint16_t(seastar::this_shard_id())},
        trunk::agreed_outage_ms(_env.terms, answer),
        trunk::settings_of(trunk::side::initiator, _env.terms, answer, answer.body.packet_bytes), _env.memory, _count,
        nullptr);
}

void client::go_on(const kept_session& s) {
    _session = s.make(_env.memory, _count, nullptr);
    if (!_session) {
        log.warn("trunk {}: what the worker before has left of it cannot be read; its channels are reset", _peer.name);
    }
}

session_info client::info() const {
    session_info i;
    i.name = _peer.name;
    i.outgoing = true;
    i.learnt = _learnt;
    if (_learnt) {
        i.state = _absent ? "absent" : "probing";
    }
    i.shard = seastar::this_shard_id();
    i.lane = uint16_t(i.shard);
    i.address = _peer.connect;
    i.count = _count;
    i.refused = _refused;
    if (_session && !_session->ended()) {
        i.add(*_session);
    }
    return i;
}

}  // namespace vmsgr::trunks
