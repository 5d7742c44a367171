// The attached programs in the page of counters (shm/stats.hh), as many as there are rows. Shard 0 only.
#pragma once

#include <algorithm>
#include <concepts>
#include <unordered_map>
#include <vector>

#include "conn/program.hh"
#include "shm/stats.hh"

namespace vmsgr::attach {

class session_rows {
    shm::stats_page& _page;
    std::unordered_map<uint64_t, size_t> _used;  // by session
    std::vector<size_t> _free;

public:
    explicit session_rows(shm::stats_page& page) : _page(page) { _free.reserve(page.session.size()); }

    // Throws std::bad_alloc.
    void show(const conn::program& p) {
        size_t i = _page.sessions_used;
        if (!_free.empty()) {
            i = _free.back();
        } else if (i == _page.session.size()) {
            return;
        }
        _used.emplace(p.session_id, i);
        _free.empty() ? void(++_page.sessions_used) : _free.pop_back();
        auto& row = _page.session[i];
        row.local_connections.set(0);
        row.local_bytes_out.set(0);
        row.about.write({p.session_id, int32_t(p.pid), p.uid(), shm::to_stats_name(p.name)});
    }
    // of: how many of its local connections are open, and how much it has sent on all that were.
    void show_locals(std::invocable<uint64_t> auto&& of) {
        for (auto [session, i] : _used) {
            const auto [connections, bytes_out] = of(session);
            auto& row = _page.session[i];
            row.local_connections.set(connections);
            // One that ends while they are added up is counted late.
            row.local_bytes_out.set(std::max(row.local_bytes_out.read(), bytes_out));
        }
    }
    void hide(uint64_t session) noexcept {
        if (const auto at = _used.find(session); at != _used.end()) {
            _page.session[at->second].about.write({});
            _free.push_back(at->second);  // there is room: it was reserved
            _used.erase(at);
        }
    }
};

}  // namespace vmsgr::attach
