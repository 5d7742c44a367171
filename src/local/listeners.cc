#include "local/listeners.hh"

#include <seastar/core/coroutine.hh>
#include <seastar/coroutine/as_future.hh>
#include <seastar/util/defer.hh>

#include "base/sockets.hh"
#include "conn/kernel_socket.hh"
#include "conn/log.hh"
#include "local/listener.hh"
#include "ssx/spawn.hh"

namespace vmsgr::local {

listeners::listeners(seastar::sharded<conn::carrier>& carriers, conn::budget& b, registry& r, std::string doors)
    : _carriers(carriers), _budget(b), _registry(r), _doors(std::move(doors)), _next_shard(seastar::this_shard_id()) {}

listeners::~listeners() = default;

unsigned listeners::next_shard() noexcept { return _next_shard++ % seastar::smp::count; }

seastar::future<> listeners::stop() {
    _abort.request_abort();
    for (auto& [id, l] : _all) {
        l->close();
    }
    return _gate.close();
}

void listeners::give_back() noexcept {
    for (auto& [id, l] : _all) {
        l->close();
    }
}

listen_answer listeners::begin(listen_request r) {
    listen_answer out;
    // It may have become something else, whose close waits.
    auto closed = seastar::defer([&, sender = r.owner->owner]() noexcept { local().let_go(r.tcp, *sender); });
    if (const char* why = base::not_tcp(r.tcp.get())) {
        out.broken = conn::violation{conn::fault::bad_descriptor, std::string("listen: ") + why};
        return out;
    }
    if (!conn::is_listening(r.tcp.get())) {
        out.status = EINVAL;  // shut down before this request came
        return out;
    }
    if (_gate.is_closed()) {
        out.status = ESHUTDOWN;
        return out;
    }
    const uint64_t id = ++_ids * seastar::smp::count + seastar::this_shard_id();
    auto l = std::make_unique<listener>(*this, std::move(r), id);
    out.status = l->prepare(out);
    if (out.status != 0) {
        return out;
    }
    _registry.publish(id, seastar::this_shard_id(), l->tcp_fd(), l->takes_local() ? l->door() : door_place());
    start(std::move(l), id);
    return out;
}

void listeners::start(std::unique_ptr<listener> l, uint64_t id) {
    auto* at = l.get();
    _all.emplace(id, std::move(l));  // one that is not kept takes its entry back
    auto over = seastar::defer([this, id]() noexcept { _all.erase(id); });
    ssx::spawn(_gate, conn::log, "a listener", [this, id, at, over = std::move(over)] { return run(*at, id); });
}

const char* listeners::take_over(keeper::entry& e, listen_request& r) {
    if (!conn::is_listening(r.tcp.get())) {
        return "it listens no more";
    }
    const uint64_t id = e.listener.id;
    _ids = std::max(_ids, id / seastar::smp::count);
    auto l = std::make_unique<listener>(*this, std::move(r), id);
    const int err = l->go_on(e);
    _registry.take_over(id, seastar::this_shard_id(), l->tcp_fd(), l->takes_local() ? l->door() : door_place());
    if (err != 0) {
        l->close();
    }
    start(std::move(l), id);
    return nullptr;
}

const char* listeners::take_over_lifeline(keeper::entry& e, base::unique_fd& fd) {
    const auto at = _all.find(e.lifeline.listener);
    if (at == _all.end()) {
        return "its listener is gone";
    }
    return at->second->go_on_with(e, fd) ? nullptr : conn::no_room_in_limits;
}

void listeners::lifelines_are_taken_over() {
    for (auto& [id, l] : _all) {
        l->has_its_lifelines();
    }
}

seastar::future<> listeners::run(listener& l, uint64_t id) {
    auto ended = co_await seastar::coroutine::as_future(seastar::futurize_invoke([&l] { return l.run(); }));
    if (ended.failed()) {
        conn::log.error("a listener ended by an exception: {}", ended.get_exception());
        l.close();
    }
    co_await _carriers.invoke_on_all([id](conn::carrier& c) { c.memory().forget_listener(id); });
}

void listeners::rest() noexcept {
    _rests = true;
    for (auto& [id, l] : _all) {
        l->hand_over();
    }
}

void listeners::unlist(uint64_t id) noexcept { _registry.unlist(id); }

listeners::reserved listeners::reserve(uint64_t id) {
    auto at = _all.find(id);
    return at != _all.end() ? at->second->reserve() : reserved{};
}

listeners::shared listeners::share(uint64_t id, uint64_t door_cookie) noexcept {
    auto at = _all.find(id);
    if (at == _all.end() || at->second->door().cookie != door_cookie) {
        return {};
    }
    shared out{conn::duplicate(at->second->tcp_fd()), at->second->make_lifeline()};
    return out.tcp && out.lifeline ? std::move(out) : shared{};
}

std::vector<listener_info> listeners::list() const {
    std::vector<listener_info> out;
    for (auto& [id, l] : _all) {
        out.push_back(l->info());
    }
    return out;
}

}  // namespace vmsgr::local
