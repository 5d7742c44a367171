#include "trunks/service.hh"

#include <sys/socket.h>

#include <seastar/core/coroutine.hh>
#include <seastar/core/smp.hh>

#include "base/netns.hh"
#include "conf/peer_rights.hh"
#include "ssx/pause.hh"
#include "ssx/spawn.hh"
#include "trunks/log.hh"

namespace vmsgr::trunks {

namespace {

constexpr auto tick = std::chrono::milliseconds(100);
constexpr auto finish_limit = std::chrono::milliseconds(2000);

trunk::session_terms terms_of(const conf::trunk_config& c, uint64_t node) {
    return {.node = node,
            .name = c.name,
            .packet_bytes = c.packet_bytes,
            .outage_ms = c.outage_ms,
            .keepalive_ms = c.keepalive_ms,
            .replay_bytes = c.replay_bytes,
            .channels_max = c.channels};
}

}  // namespace

service::service(const conf::trunk_config& c, uint64_t node, conn::budget& b, seastar::sharded<conn::carrier>& carriers,
                 seastar::sharded<local::listeners>& listeners, local::registry& r)
    : _env{c,
           terms_of(c, node),
           b,
           carriers,
           listeners,
           r,
           [this](std::string identity) {
               auto task = [identity = std::move(identity)](service& s) {
                   return s._shares.find(identity, s.limit_of_peer());
               };
               return container().invoke_on(0, std::move(task));
           }},
      _openings(_env),
      _directory(_env, _openings),
      _acceptor(_env, _directory, [this](unsigned shard, acceptor::greeted g) {
          auto task = [g = std::move(g)](service& s) mutable { return s._acceptor.serve(std::move(g)); };
          return container().invoke_on(shard, std::move(task));
      }) {
    _env.memory.limit = c.memory_bytes;
    _timer.set_callback([this] {
        try {
            _directory.tick();
        } catch (const std::bad_alloc&) {
            ++_env.carriers.local().count().no_memory;  // the next one is soon
        }
        _openings.tick();
    });
}

uint64_t service::limit_of_peer() const noexcept {
    const uint64_t all = _env.budget.connections.limit(), said = _env.config.connections_per_peer;
    return said != 0 ? std::min(said, all) : (all + 1) / 2;
}

seastar::future<> service::start() {
    auto& config = _env.config;
    if (!config.wanted()) {
        co_return;
    }
    if (config.tls.on()) {
        co_await _env.tls.load(config.tls);
    }
    base::unique_fd probe(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    _env.netns = base::netns_cookie(probe.get());
}

void service::begin() {
    auto& config = _env.config;
    if (!config.wanted()) {
        return;
    }
    if (config.listen.family != 0 && seastar::this_shard_id() == 0) {
        _acceptor.listen();
    }
    if (seastar::this_shard_id() == 0) {
        log.log(config.tls.on() ? seastar::log_level::info : seastar::log_level::warn, "trunks are {}",
                conf::trusts(config));
    }
    _directory.start();
    _timer.arm_periodic(tick);
    ssx::spawn_for_good(_env.fibers, log, "looking at certificates", [this] { return watch_certificates(); });
}

seastar::future<> service::watch_certificates() {
    constexpr auto every = std::chrono::seconds(1);
    while (!_env.stop.abort_requested()) {
        co_await ssx::pause(every, _env.stop);
        if (!_env.stop.abort_requested() && _env.tls.on() && co_await _env.tls.look_again()) {
            _directory.renew_links();
        }
    }
}

seastar::future<> service::prepare(const conf::trunk_config& c) {
    _prepared = nullptr;
    if (c.tls.on() && c.tls != _env.config.tls) {
        auto fresh = std::make_unique<credentials>();
        co_await fresh->load(c.tls);
        _prepared = std::move(fresh);
    }
}

void service::change(const conf::trunk_config& c) {
    _env.config = c;
    _env.terms = terms_of(c, _env.terms.node);
    _env.memory.limit = c.memory_bytes;
    _shares.set_limit(limit_of_peer());
    _directory.change_peers();
    if (_prepared) {
        _env.tls.replace(*_prepared);
        _prepared = nullptr;
        _directory.renew_links();
    }
}

void service::freeze() noexcept {
    _acceptor.stop_listening();
    _env.stop.request_abort();
    _directory.freeze();
}

void service::hand_over() noexcept try {
    base::record_writer record;
    record.put(record_version);
    auto& kept = _env.carriers.local().kept();
    _directory.save(record);
    _openings.hand_over(record, kept);
    const auto made = shm::create_published("vmsgr-trunks", record.bytes().size());
    if (!made) {
        throw std::runtime_error(made.error().text);
    }
    std::ranges::copy(record.bytes(), made->memory.data());
    auto* e = kept.take(keeper::entry_kind::trunks);
    if (e == nullptr) {
        throw std::runtime_error("the ledger is full");
    }
    e->owner = {};
    e->trunks.used.store(0, std::memory_order_relaxed);
    const int fds[] = {made->fd.get()};
    if (!kept.give(*e, fds)) {
        throw std::runtime_error("the keeper does not take it");
    }
} catch (const std::exception& e) {
    log.warn("the channels of trunks are reset by the upgrade: {}", e.what());
}

seastar::future<> service::take_over(keeper::entry& entry, base::unique_fd record) {
    _taken_over = &entry;
    if (entry.trunks.used.load(std::memory_order_acquire) != 0) {
        co_return;
    }
    const auto bytes = shm::sealed_size(record.get(), sizeof record_version, SIZE_MAX);
    const auto mapped = bytes ? shm::map_published(record.get(), *bytes) : std::unexpected(bytes.error());
    if (!mapped) {
        log.warn("the channels of trunks are reset: {}", std::string_view(mapped.error().text));
        co_return;
    }
    base::record_reader from({mapped->data(), mapped->size()});
    const bool known = from.get<uint32_t>() == record_version && _env.config.wanted();
    if (!known || !co_await _directory.load(from) || !_openings.load(from)) {
        log.warn("channels of trunks are reset: this version of vmsgrd does not know their record");
    }
}

std::unique_ptr<conn::far_side> service::claim(conn::channel_name which, const base::address& local,
                                               const base::address& peer) {
    const uint64_t window = _env.carriers.local().settings().ring_bytes;
    auto far = _directory.claim(which, window, local, peer);
    if (far && far->owes_answer()) {
        far->accept();  // the program has it already
    }
    return far;
}

void service::take_over_relay(keeper::entry& entry, base::unique_fd socket) {
    _openings.take_over({entry.relay.trunk, entry.relay.channel}, std::move(socket), _directory);
    _env.carriers.local().kept().leave(entry);
}

void service::go_on() noexcept {
    if (_taken_over != nullptr) {
        _taken_over->trunks.used.store(1, std::memory_order_release);
        _env.carriers.local().kept().leave(*std::exchange(_taken_over, nullptr));
    }
    _directory.go_on();
    _openings.go_on();
}

seastar::future<> service::quiesce() {
    _acceptor.stop_listening();
    _directory.stop_probing();
    co_await _openings.close();
}

seastar::future<> service::stop() {
    co_await quiesce();
    _env.stop.request_abort();
    co_await _directory.finish(finish_limit);
    _acceptor.shut();
    co_await _env.fibers.close();
    _timer.cancel();
    _directory.clear();
}

}  // namespace vmsgr::trunks
