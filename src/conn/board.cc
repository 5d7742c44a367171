#include "conn/board.hh"

#include <unistd.h>

#include <algorithm>
#include <memory>
#include <new>

namespace vmsgr::conn {

namespace {

constexpr std::string_view other_routes = "(other)";

}  // namespace

board::board(shm::stats_shard& at) : _at(at), _count(*std::construct_at(reinterpret_cast<counters*>(&at.counters))) {
    _free.reserve(shm::stats_connections);
    _at.route.back().name.write(shm::to_stats_name(other_routes));
    _at.thread.set(uint64_t(::gettid()));
    _at.tick_us.set(shm::stats_now_us());
}

void board::name_route(std::string_view name) {
    const auto fresh = shm::to_stats_name(name);
    if (_routes.size() == shm::stats_routes - 1 || std::ranges::contains(_routes, fresh)) {
        return;
    }
    _routes.push_back(fresh);
    _at.route[_routes.size() - 1].name.write(fresh);
    _at.routes.set(_routes.size());
}

uint16_t board::route(std::string_view name) const noexcept {
    const auto at = std::ranges::find(_routes, shm::to_stats_name(name));
    return uint16_t(at != _routes.end() ? size_t(at - _routes.begin()) : shm::stats_routes - 1);
}

board::row_ptr board::take() {
    if (!_free.empty()) {
        const uint32_t i = _free.back();
        _free.pop_back();
        return {&_at.connection[i], {this}};
    }
    const auto used = _at.connections_used.read();
    if (used < _at.connection.size()) {
        ++_at.connections_used;
        return {&_at.connection[used], {this}};
    }
    auto* hidden = new shm::stats_connection_row;
    ++_at.connections_hidden;
    return {hidden, {this}};
}

void board::give(shm::stats_connection_row& row) noexcept {
    if (&row < _at.connection.data() || &row >= _at.connection.data() + _at.connection.size()) {
        delete &row;
        _at.connections_hidden.set(_at.connections_hidden - 1);
        return;
    }
    row.about.write({});
    for (auto* n :
         {&row.state, &row.bytes_in, &row.bytes_out, &row.program_stalls_since_us, &row.far_stalls_since_us}) {
        n->set(0);
    }
    _free.push_back(uint32_t(&row - _at.connection.data()));  // there is room: it was reserved
}

const counters& counters_of(const shm::stats_shard& block) noexcept {
    return *std::launder(reinterpret_cast<const counters*>(&block.counters));
}

}  // namespace vmsgr::conn
