#include "trunks/session.hh"

#include <errno.h>
#include <string.h>

#include <seastar/core/coroutine.hh>
#include <seastar/core/sleep.hh>
#include <seastar/coroutine/as_future.hh>
#include <seastar/coroutine/maybe_yield.hh>
#include <seastar/net/packet.hh>
#include <seastar/util/defer.hh>
#include <seastar/util/later.hh>

#include "trunks/far.hh"
#include "trunks/log.hh"

namespace vmsgr::trunks {

namespace {

// Handed to the kernel by one write.
constexpr size_t write_bytes_max = 256 << 10;
// Read at a stretch, before the programs whose bytes these are get woken: TLS gives one record at a time.
constexpr size_t untold_max = 64 << 10;
// Behind a smaller piece there is likely nothing.
constexpr size_t full_record = 16 << 10;
constexpr auto bye_limit = std::chrono::milliseconds(200);

void add(seastar::net::packet& to, trunk::packet_ptr p) {
    auto bytes = p->bytes();
    seastar::net::fragment f{reinterpret_cast<char*>(bytes.data()), bytes.size()};
    to = seastar::net::packet(std::move(to), f, seastar::make_deleter([p = std::move(p)] {}));
}

}  // namespace

uint64_t clock_us() noexcept {
    using namespace std::chrono;
    return uint64_t(duration_cast<microseconds>(steady_clock::now().time_since_epoch()).count());
}

trunk_session::trunk_session(uint64_t cookie, identity who_, uint32_t outage_ms, const trunk::engine_settings& s,
                             trunk::memory_share& share, trunk::engine_counters& count, opener on_open)
    : _cookie(cookie),
      _outage_us(uint64_t(outage_ms) * 1000),
      _open(std::move(on_open)),
      _engine(s, *this, share, count),
      _down_since_us(clock_us()),
      who(std::move(who_)) {}

trunk::known_session trunk_session::known() const noexcept {
    return {_cookie, _engine.received(), _engine.settings().packet_bytes};
}

trunk::channel_sink* trunk_session::on_open(uint64_t id, const base::address& source,
                                            const base::address& destination) noexcept {
    if (_says_bye || !_open) {
        return nullptr;
    }
    try {
        return _open(*this, id, source, destination);
    } catch (const std::exception& e) {
        log.warn("a channel of trunk {} is refused: {}", who.peer, e.what());
        return nullptr;
    }
}

// --- connections ------------------------------------------------------------------------------------------------

trunk_session::turn::turn(session_ptr s, seastar::semaphore_units<> units) noexcept
    : _session(std::move(s)), _units(std::move(units)) {}

trunk_session::turn::~turn() {
    if (_session) {
        _session->_link = nullptr;
    }
}

seastar::future<std::optional<trunk_session::turn>> trunk_session::take_turn(link& l) {
    auto self = shared_from_this();
    break_link();
    auto units = co_await seastar::get_units(_turns, 1);
    if (_ended || _turns.waiters() != 0) {
        co_return std::nullopt;
    }
    _link = &l;
    _broken = false;
    co_return turn(std::move(self), std::move(units));
}

seastar::future<> trunk_session::run_on([[maybe_unused]] turn t, uint64_t peer_ack, trunk::crc_cover cover) {
    if (_ended || _broken || _frozen) {
        co_return;  // meanwhile, for instance as a newer connection has come
    }
    if (!_engine.attach(_cookie, peer_ack, clock_us(), cover)) {
        log.warn("trunk {}: the peer claims to have what never left; the session ends", who.peer);
        _engine.count(trunk::packet_fault::ack);
        end(ECONNRESET);
        co_return;
    }
    auto leave = seastar::defer([this]() noexcept {
        _engine.detach();
        _down_since_us = clock_us();
    });
    _part.clear();
    auto lost = [this](std::exception_ptr e) {
        log.debug("trunk {}: {}", who.peer, e);
        break_link();
    };
    // Neither leaves before the other, whatever happens: both use the link, which is the caller's.
    link& l = *_link;
    auto reads = seastar::futurize_invoke([&] { return read_loop(l); }).handle_exception(lost);
    auto writes = seastar::futurize_invoke([&] { return write_loop(l); }).handle_exception(lost);
    co_await std::move(reads);
    co_await std::move(writes);
}

void trunk_session::break_link() noexcept {
    if (_link != nullptr && !std::exchange(_broken, true)) {
        _link->shut();
        _output.wake();
    }
}

void trunk_session::end(int err) noexcept {
    if (!_frozen && !std::exchange(_ended, true)) {
        break_link();
        _engine.end(err);
    }
}

void trunk_session::freeze() noexcept {
    end_of_data();  // read_loop may wait with some
    _frozen = true;
    _engine.freeze();
    break_link();
}

void trunk_session::tick(uint64_t now_us) noexcept {
    if (_ended || _frozen) {
        return;
    }
    if (_engine.attached()) {
        if (!_broken && !_engine.tick(now_us)) {
            log.info("trunk {}: nothing heard for too long; the connection is made anew", who.peer);
            break_link();
        }
    } else if (now_us - _down_since_us > _outage_us) {
        if (_engine.channels() != 0) {
            log.warn("trunk {}: no connection for more than {} ms; {} channels are reset", who.peer, _outage_us / 1000,
                     _engine.channels());
        }
        end(ECONNRESET);
    }
}

seastar::future<> trunk_session::finish(std::chrono::milliseconds limit) {
    auto self = shared_from_this();
    const auto until = std::chrono::steady_clock::now() + limit;
    while (!_ended && _engine.attached() && _engine.in_flight_bytes() != 0 &&
           std::chrono::steady_clock::now() < until) {
        _engine.tick(clock_us());
        co_await seastar::sleep(std::chrono::milliseconds(5));
    }
    if (!_ended && _engine.attached()) {
        _says_bye = true;
        _output.wake();
        auto left = co_await seastar::coroutine::as_future(seastar::get_units(_turns, 1, bye_limit));
        left.ignore_ready_future();
    }
    end(ECONNRESET);
    co_await seastar::get_units(_turns, 1);
}

// --- packets ----------------------------------------------------------------------------------------------------

seastar::future<> trunk_session::write_loop(link& l) {
    while (!_broken) {
        _output.clear();
        seastar::net::packet batch;
        while (batch.len() < write_bytes_max) {
            auto p = _engine.next_packet(clock_us());
            if (!p) {
                break;
            }
            add(batch, std::move(p));
        }
        const bool last = _says_bye && batch.len() == 0;
        if (last) {
            add(batch, _engine.bye(clock_us()));
        }
        if (batch.len() == 0) {
            co_await _output.wait();
            continue;
        }
        co_await l.send(std::move(batch));
        if (last) {
            co_await l.finish_output();
            break_link();
        }
        co_await seastar::coroutine::maybe_yield();
    }
}

seastar::future<> trunk_session::read_loop(link& l) {
    const auto at_the_end = seastar::defer([this]() noexcept { end_of_data(); });
    size_t untold = 0;  // bytes since the programs were woken last
    while (!_broken) {
        auto read = l.in().read();
        if (untold != 0 && !read.available()) {
            end_of_data();
            untold = 0;
        }
        auto buf = co_await std::move(read);
        if (buf.empty()) {
            if (!_part.empty() && !_broken) {
                _engine.count(trunk::packet_fault::truncated);
            }
            break;
        }
        if (_broken || !feed(std::as_bytes(std::span(buf.get(), buf.size())))) {
            break;
        }
        untold += buf.size();
        if (buf.size() < full_record || untold >= untold_max) {
            end_of_data();
            if (untold >= untold_max) {
                co_await seastar::yield();  // credits and acknowledgements leave
            }
            untold = 0;
        }
    }
    break_link();
}

bool trunk_session::feed(std::span<const std::byte> bytes) {
    const size_t size = _engine.settings().packet_bytes;
    if (!_part.empty()) {
        const size_t have = _part.size(), n = std::min(bytes.size(), size - have);
        _part.resize(have + n);
        memcpy(_part.data() + have, bytes.data(), n);
        bytes = bytes.subspan(n);
        if (_part.size() < size) {
            return true;
        }
        if (!take(_part)) {
            return false;
        }
        _part.clear();
    }
    while (bytes.size() >= size) {
        if (!take(bytes.first(size))) {
            return false;
        }
        bytes = bytes.subspan(size);
    }
    _part.resize(bytes.size());
    if (!bytes.empty()) {
        memcpy(_part.data(), bytes.data(), bytes.size());
    }
    return true;
}

void trunk_session::end_of_data() noexcept {
    while (trunk_far* w = _in_batch) {
        _in_batch = w->next_in_batch;
        w->on_end_of_batch();
    }
}

void trunk_session::remember(trunk_far& w) noexcept { w.next_in_batch = std::exchange(_in_batch, &w); }

void trunk_session::forget(trunk_far& w) noexcept {
    for (trunk_far** at = &_in_batch; *at != nullptr; at = &(*at)->next_in_batch) {
        if (*at == &w) {
            *at = w.next_in_batch;
            return;
        }
    }
}

bool trunk_session::take(std::span<const std::byte> packet) {
    bool bye = false;
    auto why = _engine.receive(packet, clock_us(), bye);
    if (why) {
        static thread_local seastar::logger::rate_limit rate(std::chrono::seconds(1));
        log.log(seastar::log_level::warn, rate, "trunk {}: {}; the connection is made anew", who.peer, to_text(*why));
    }
    if (bye || (why && trunk::engine::session_is_over(*why))) {
        end(ECONNRESET);
    }
    return !why && !bye && !_ended;
}

}  // namespace vmsgr::trunks
