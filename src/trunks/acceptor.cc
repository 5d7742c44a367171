#include "trunks/acceptor.hh"

#include <errno.h>
#include <sys/socket.h>

#include <seastar/core/coroutine.hh>
#include <seastar/core/smp.hh>
#include <seastar/core/timer.hh>
#include <seastar/coroutine/as_future.hh>
#include <seastar/util/defer.hh>

#include "conf/peer_rights.hh"
#include "conn/kernel_socket.hh"
#include "ssx/pause.hh"
#include "ssx/spawn.hh"
#include "trunks/log.hh"

namespace vmsgr::trunks {

namespace {

constexpr int backlog = 128;
constexpr auto accept_pause = std::chrono::milliseconds(20);
constexpr unsigned fds_per_stranger = 1;  // see acceptor::_strangers

}  // namespace

acceptor::acceptor(environment& env, directory& d, hand_over to_shard)
    : _env(env), _directory(d), _hand_over(std::move(to_shard)) {}

// --- listening, on shard 0 --------------------------------------------------------------------------------------

void acceptor::listen() {
    const auto& at = _env.config.listen;
    sockaddr_storage ss{};
    socklen_t len = base::to_sockaddr(at, ss);
    base::unique_fd fd(::socket(at.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    seastar::throw_system_error_on(!fd, "socket");
    int on = 1;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&ss), len) != 0 || ::listen(fd.get(), backlog) != 0) {
        throw std::runtime_error(base::os_error("trunk.listen: " + base::to_string(at)).text +
                                 "; another daemon may have it, or it is no address of this host");
    }
    _listen_handle = conn::duplicate(fd.get());
    _listening.emplace(seastar::file_desc::from_fd(fd.release()));
    ssx::spawn_for_good(_env.fibers, log, "accepting peers", [this] { return accept_loop(); });
}

void acceptor::stop_listening() noexcept {
    _stopping = true;
    if (_listen_handle) {
        ::shutdown(_listen_handle.get(), SHUT_RDWR);
    }
}

void acceptor::shut() noexcept {
    for (auto* l : _links) {
        l->shut();
    }
}

bool acceptor::may_connect(const base::address& from) const noexcept {
    auto& allowed = _env.config.accept_from;
    return (allowed.empty() && _env.config.tls.on()) ||
           std::ranges::any_of(allowed, [&](const base::prefix& p) { return p.contains(from.unmapped()); });
}

seastar::future<> acceptor::accept_loop() {
    while (!_stopping) {
        auto waited = co_await seastar::coroutine::as_future(_listening->readable());
        waited.ignore_ready_future();
        base::unique_fd fd(::accept4(_listen_handle.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (fd) {
            admit(std::move(fd));
        } else if (errno != EAGAIN) {
            co_await ssx::pause(accept_pause, _env.stop);
        }
    }
    _listening.reset();
}

void acceptor::admit(base::unique_fd fd) {
    const auto from = conn::peer_address(fd.get());
    if (!may_connect(from)) {
        refuse(trunk::refusal::address, from);
        return;
    }
    auto fds = conn::lease::take(_env.budget.fds, fds_per_link);
    auto own = conn::lease::take(_env.budget.fds, fds_per_stranger);
    auto handle = fds && own ? conn::duplicate(fd.get()) : base::unique_fd();
    if (!handle) {
        refuse(trunk::refusal::descriptors, from);
        return;
    }
    const auto place = _admission.enter(from, conf::is_named(_env.config, {{}, from.unmapped(), false}));
    if (place.leaves) {
        turn_away(*place.leaves);
    }
    auto over = seastar::defer([this, id = place.id]() noexcept {
        _admission.leave(id);
        _strangers.erase(id);
    });
    _strangers.emplace(place.id, stranger{std::move(handle), std::move(*own)});
    ssx::spawn(_env.fibers, log, "a connection of a peer",
               [this, fd = std::move(fd), fds = std::move(*fds), over = std::move(over)]() mutable {
                   return try_to_greet(std::move(fd), std::move(fds));
               });
}

seastar::future<> acceptor::try_to_greet(base::unique_fd fd, conn::lease fds) {
    auto done = co_await seastar::coroutine::as_future(greet(std::move(fd), std::move(fds)));
    if (done.failed()) {
        log.debug("a connection for a trunk: {}", done.get_exception());
    }
}

void acceptor::turn_away(uint64_t id) noexcept {
    if (auto at = _strangers.find(id); at != _strangers.end()) {
        refuse(trunk::refusal::crowd, conn::peer_address(at->second.handle.get()));
        ::shutdown(at->second.handle.get(), SHUT_RDWR);
    }
}

void acceptor::refuse(trunk::refusal why, const base::address& from) noexcept {
    static thread_local seastar::logger::rate_limit rate(std::chrono::seconds(1));
    _directory.count(why);
    log.log(seastar::log_level::warn, rate, "a connection from {} for a trunk is refused: {}", base::to_string(from),
            to_text(why));
}

// Reads which lane it is; then it goes to that lane's shard, and this waits until it is no stranger any more.
seastar::future<> acceptor::greet(base::unique_fd fd, conn::lease fds) {
    const auto deadline = seastar::lowres_clock::now() + greeting_limit;
    base::unique_fd handle = conn::duplicate(fd.get());
    seastar::pollable_fd pollable(seastar::file_desc::from_fd(fd.release()));
    seastar::timer<seastar::lowres_clock> limit([&] { ::shutdown(handle.get(), SHUT_RDWR); });
    limit.arm(deadline);
    auto stop = _env.stop.subscribe([&]() noexcept { ::shutdown(handle.get(), SHUT_RDWR); });
    std::byte bytes[trunk::greeting_bytes];
    size_t have = 0;
    while (have < sizeof bytes) {
        size_t n = co_await pollable.read_some(reinterpret_cast<char*>(bytes) + have, sizeof bytes - have);
        if (n == 0) {
            break;
        }
        have += n;
    }
    limit.cancel();
    stop = std::nullopt;
    pollable.close();
    uint16_t lane = 0;
    if (auto why = trunk::get_greeting(std::span(bytes).first(have), lane)) {
        _directory.count(*why);
        co_return;
    }
    co_await _hand_over(lane % seastar::smp::count, greeted{std::move(handle), std::move(fds), lane, deadline});
}

// --- the lane's shard -------------------------------------------------------------------------------------------

seastar::future<> acceptor::serve(greeted g) {
    seastar::promise<> handshake_over;
    auto over = handshake_over.get_future();
    const bool runs = ssx::spawn(_env.fibers, log, "a connection of a peer",
                                 [this, g = std::move(g), told = std::move(handshake_over)]() mutable {
                                     return run(std::move(g), std::move(told));
                                 });
    if (runs) {
        co_await std::move(over);
    } else {
        over.ignore_ready_future();  // the daemon stops
    }
}

seastar::future<> acceptor::run(greeted g, seastar::promise<> handshake_over) {
    link l;
    _links.push_back(&l);
    auto leave = seastar::defer([&]() noexcept { std::erase(_links, &l); });
    seastar::timer<seastar::lowres_clock> limit([&] { l.shut(); });
    limit.arm(g.deadline);
    auto shaken = co_await seastar::coroutine::as_future(shake_hands(l, g));
    limit.cancel();
    handshake_over.set_value();
    auto ran = seastar::make_ready_future<>();
    if (shaken.failed()) {
        log.debug("a connection for a trunk: {}", shaken.get_exception());
    } else if (auto hands = shaken.get()) {
        ran = co_await seastar::coroutine::as_future(seastar::futurize_invoke(
            [&] { return hands->session->run_on(std::move(hands->turn), hands->peer_ack, hands->cover); }));
    }
    l.shut();
    co_await l.close();
    co_await std::move(ran);
}

seastar::future<std::optional<acceptor::agreed>> acceptor::shake_hands(link& l, greeted& g) {
    const base::address from = conn::peer_address(g.fd.get());
    auto started = co_await seastar::coroutine::as_future(l.start(std::move(g.fd), _env.tls, {}));
    if (started.failed()) {
        static thread_local seastar::logger::rate_limit rate(std::chrono::seconds(1));
        auto why = started.get_exception();
        log.log(seastar::log_level::warn, rate, "a connection from {} for a trunk is refused: {}",
                base::to_string(from), why);
        if (const auto refused = refusal_of(why)) {
            _directory.count(*refused);
        }
        co_return std::nullopt;
    }
    auto hands = co_await answer(l, g.lane);
    if (!hands) {
        co_await l.finish_output();  // the refusal
    }
    co_return hands;
}

// Reads the hello and answers it.
seastar::future<std::optional<acceptor::agreed>> acceptor::answer(link& l, uint16_t lane) {
    const auto asked = co_await l.receive_hello();
    if (!asked || asked->body.lane != lane) {
        _directory.count(asked ? trunk::packet_fault::channel : asked.error());
        co_return std::nullopt;
    }
    session_ptr session = asked->session != 0 ? _directory.find(asked->session, l.peer()) : nullptr;
    std::optional<trunk_session::turn> turn;
    if (session) {
        turn = co_await session->take_turn(l);
        if (!turn && !session->ended()) {
            co_return std::nullopt;  // a newer connection of the same session has come
        }
    }
    const trunk::acceptor_state state{
        .stopping = _stopping, .knows_session = bool(turn), .has_room = _directory.has_room(l.peer())};
    const auto verdict = trunk::judge_request(*asked, state);
    if (verdict == trunk::hello_verdict::unknown_session) {
        _directory.count(trunk::packet_fault::cookie);
    }
    if (verdict == trunk::hello_verdict::too_many) {
        _directory.count(trunk::refusal::sessions);
    }
    if (verdict != trunk::hello_verdict::welcome) {
        co_await l.send(trunk::answer(_env.terms, *asked, verdict, nullptr, l.below()));
        co_return std::nullopt;
    }
    if (!turn) {
        auto share = co_await _env.share_of(l.peer().identity);
        session = _directory.begin(*asked, l.peer(), std::move(share));
        turn = co_await session->take_turn(l);
        if (!turn) {
            co_return std::nullopt;  // ended by a still newer one of the same lane
        }
    }
    const auto known = session->known();
    const auto answer = trunk::answer(_env.terms, *asked, verdict, &known, l.below());
    co_await l.send(answer);
    co_return agreed{std::move(session), std::move(*turn), asked->ack, trunk::crc_cover_of(*asked, answer)};
}

}  // namespace vmsgr::trunks
