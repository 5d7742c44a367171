// A shard's block of the page of counters (shm/stats.hh): its counters, a row for each connection, a row for each
// route. Its shard alone writes. Where rows are used up, a connection has one that nobody reads.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "conn/counters.hh"
#include "shm/stats.hh"

namespace vmsgr::conn {

static_assert(sizeof(counters) <= sizeof(shm::stats_shard::counters));

class board {
    shm::stats_shard& _at;
    counters& _count;
    std::vector<uint32_t> _free;
    std::vector<shm::stats_name> _routes;  // that have a row

public:
    struct give_back {
        board* to;
        void operator()(shm::stats_connection_row* row) const noexcept { to->give(*row); }
    };
    using row_ptr = std::unique_ptr<shm::stats_connection_row, give_back>;

    explicit board(shm::stats_shard& at);

    shm::stats_shard& block() noexcept { return _at; }
    counters& count() noexcept { return _count; }
    const counters& count() const noexcept { return _count; }
    // A route of the configuration gets a row of its own, as long as there are any, and keeps it.
    void name_route(std::string_view name);
    // The number of the route's row; the last one is that of all others. Programs choose names, too, and get no row.
    uint16_t route(std::string_view name) const noexcept;
    shm::stats_route_row& route_row(uint16_t number) noexcept { return _at.route[number]; }
    row_ptr take();

private:
    void give(shm::stats_connection_row& row) noexcept;
};

// The counters of a block, for a reader.
const counters& counters_of(const shm::stats_shard& block) noexcept;

}  // namespace vmsgr::conn
