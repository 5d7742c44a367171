#include "trunks/client.hh"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include <seastar/core/coroutine.hh>
#include <seastar/core/internal/pollable_fd.hh>
#include <seastar/core/sleep.hh>
#include <seastar/core/smp.hh>
#include <seastar/coroutine/as_future.hh>

#include "conn/kernel_socket.hh"
#include "conn/log.hh"

namespace vmsgr::net {

namespace {

constexpr auto first_pause = std::chrono::milliseconds(10);
constexpr auto longest_pause = std::chrono::milliseconds(1000);
constexpr auto patience = std::chrono::milliseconds(3000);

}  // namespace

trunk_client::trunk_client(trunks& owner, conf::trunk_peer p, bool learnt)
    : _owner(owner),
      _peer(std::move(p)),
      _learnt(learnt),
      _patience(learnt ? std::chrono::milliseconds(owner._config.probe.timeout_ms) : patience) {}

bool trunk_client::reaches(const base::address& destination) const noexcept {
    return std::ranges::any_of(_peer.addresses, [&](const base::prefix& p) { return p.contains(destination); });
}

void trunk_client::interrupt() noexcept {
    if (_link != nullptr) {
        _link->shut();
    }
    if (_connecting >= 0) {
        ::shutdown(_connecting, SHUT_RDWR);
    }
}

seastar::future<> trunk_client::run() {
    auto pause = std::chrono::milliseconds(0);
    while (!_owner._stopping) {
        auto done = co_await seastar::coroutine::as_future(attempt());
        const bool done_badly = done.failed();
        if (done_badly) {
            auto e = done.get_exception();
            log.debug("trunk {}: {}", _peer.name, e);
            if (!std::exchange(_said_down, true) && !_learnt) {
                log.warn("trunk {}: no connection to {}: {}; trying again", _peer.name,
                         base::to_string(_peer.connect), e);
            }
        } else if (done.get()) {
            pause = std::chrono::milliseconds(0);
        }
        if (_session && _session->ended()) {
            _session = nullptr;
        }
        if (_learnt && done_badly && !_session) {
            ++_owner._carriers.local().count().probes_absent;
            _absent_until = seastar::lowres_clock::now() + std::chrono::seconds(_owner._config.probe.absent_s);
            _absent = true;
            break;
        }
        auto slept = co_await seastar::coroutine::as_future(seastar::sleep_abortable(pause, _owner._abort));
        slept.ignore_ready_future();
        pause = std::clamp(pause * 2, first_pause, longest_pause);
    }
}

seastar::future<base::unique_fd> trunk_client::connect() {
    sockaddr_storage ss{};
    socklen_t len = base::to_sockaddr(_peer.connect, ss);
    base::unique_fd fd(::socket(_peer.connect.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    seastar::throw_system_error_on(!fd, "socket");
    base::unique_fd handle = duplicate(fd.get());
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
    if (int err = take_socket_error(handle.get()); err != 0) {
        throw std::system_error(err, std::generic_category(), "connect");
    }
    if (connect_progress(handle.get()) != progress::up) {
        throw std::system_error(ETIMEDOUT, std::generic_category(), "connect");
    }
    pollable.close();
    std::byte greeting[trunk::greeting_bytes];
    trunk::put_greeting(greeting, uint16_t(seastar::this_shard_id()));
    seastar::throw_system_error_on(::send(handle.get(), greeting, sizeof greeting, MSG_NOSIGNAL) != sizeof greeting,
                                   "send");
    co_return handle;
}

seastar::future<bool> trunk_client::attempt() {
    auto fd = co_await connect();
    trunk_link link;
    _link = &link;
    seastar::timer<seastar::lowres_clock> limit([&] { link.shut(); });
    limit.arm(_patience);
    auto started = co_await seastar::coroutine::as_future(link.start(std::move(fd), _owner._tls, true));
    if (started.failed()) {
        _link = nullptr;
        co_return co_await seastar::make_exception_future<bool>(started.get_exception());
    }
    auto asked = co_await seastar::coroutine::as_future(converse(link));
    limit.cancel();
    std::exception_ptr refused = asked.failed() ? asked.get_exception() : nullptr;
    const bool carried = !refused && asked.get();
    if (carried) {
        if (std::exchange(_said_down, false)) {
            log.info("trunk {}: connected to {}", _peer.name, base::to_string(_peer.connect));
        }
        auto session = _session;
        _link = nullptr;
        co_await session->carry(link, session->hello_ack);
    }
    _link = nullptr;
    link.shut();
    co_await link.close();
    if (refused) {
        co_return co_await seastar::make_exception_future<bool>(refused);
    }
    co_return carried;
}

// True: _session is to be carried over this connection.
seastar::future<bool> trunk_client::converse(trunk_link& link) {
    const bool goes_on = bool(_session);
    trunk::hello_body mine;
    mine.node = _owner._node;
    mine.packet_bytes = _owner._config.packet_bytes;
    mine.outage_ms = _owner._config.outage_ms;
    mine.lane = uint16_t(seastar::this_shard_id());
    strncpy(mine.name, _owner._config.name.c_str(), trunk::name_bytes - 1);
    std::byte packet[trunk::hello_bytes];
    trunk::make_hello(packet, goes_on ? _session->cookie() : 0, goes_on ? _session->engine().received() : 0, mine);
    co_await link.send(packet);
    size_t n = co_await link.receive(packet);
    trunk::header h;
    trunk::hello_body theirs;
    auto why = n == sizeof packet ? trunk::read_hello(packet, h, theirs) : std::optional(trunk::fault::truncated);
    if (why) {
        ++_count.faults[size_t(*why)];
        throw std::runtime_error("its answer is no hello (" + std::string(to_text(*why)) + ")");
    }
    if (theirs.answer != trunk::verdict::welcome) {
        if (goes_on && theirs.answer == trunk::verdict::unknown_session) {
            log.warn("trunk {}: the peer has restarted or given up; {} channels are reset", _peer.name,
                     _session->engine().channels());
            _session->end(ECONNRESET);
            co_return false;
        }
        throw std::runtime_error("it refuses: " + std::string(to_text(theirs.answer)));
    }
    if (goes_on && h.session == _session->cookie()) {
        _session->hello_ack = h.ack;
        co_return true;
    }
    if (goes_on || h.session == 0 || h.ack != 0 || theirs.packet_bytes > mine.packet_bytes) {
        ++_count.faults[size_t(trunk::fault::cookie)];
        throw std::runtime_error("its answer does not fit what was asked");
    }
    trunk::engine_settings s;
    s.which = trunk::side::initiator;
    s.packet_bytes = theirs.packet_bytes;
    s.replay_bytes = _owner._config.replay_bytes;
    s.channels_max = _owner._config.channels;
    s.keepalive_ms = _owner._config.keepalive_ms;
    _session = seastar::make_lw_shared<trunk_session>(h.session, _peer.name, theirs.node, mine.lane,
                                                      std::min(theirs.outage_ms, mine.outage_ms), s, _owner._memory,
                                                      _count, nullptr);
    co_return true;
}

trunk_info trunk_client::info() const {
    trunk_info i;
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
    if (_session && !_session->ended()) {
        auto& e = _session->engine();
        i.state = e.attached() ? "up" : "waiting";
        i.channels = e.channels();
        i.rtt_us = e.rtt_us();
        i.in_flight_bytes = e.in_flight_bytes();
        i.packet_bytes = e.settings().packet_bytes;
    }
    return i;
}

}  // namespace vmsgr::net
