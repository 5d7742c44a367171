// Relays, from one worker to the next: see trunks/kept.hh.
#include "trunks/directory.hh"
#include "trunks/log.hh"
#include "trunks/openings.hh"

namespace vmsgr::trunks {

void openings::hand_over(base::record_writer& to, keeper::ledger_share& kept) {
    tick();
    to.put(uint64_t(_relays.size()));
    for (auto& r : _relays) {
        const kept_relay now = r->keep();
        save(to, now);
        auto* e = kept.take(keeper::entry_kind::relay);
        if (e == nullptr) {
            continue;
        }
        e->owner = {};
        e->relay = {now.which.session, now.which.channel};
        const int fds[] = {r->socket()};
        (void)kept.give(*e, fds);  // else it ends with this worker
    }
}

bool openings::load(base::record_reader& from) {
    for (auto left = from.get<uint64_t>(); left > 0; --left) {
        auto r = read_relay(from);
        if (!r) {
            return false;
        }
        _left.push_back(std::move(*r));
    }
    return from.complete();
}

void openings::take_over(conn::channel_name which, base::unique_fd socket, directory& of) {
    const auto at = std::ranges::find(_left, which, &kept_relay::which);
    if (at == _left.end()) {
        return;
    }
    auto channel = of.claim(which, at->window, at->local, at->peer);
    auto place = conn::lease::take(_env.budget.connections);
    auto fds = conn::lease::take(_env.budget.fds, 1);
    if (!channel || !place || !fds) {
        return;
    }
    auto memory = take_memory(*channel);
    if (!memory) {
        return;
    }
    _relays.push_back(std::make_unique<trunk_relay>(std::move(socket), std::move(channel), std::move(*place),
                                                    std::move(*fds), std::move(*memory), std::move(*at)));
}

void openings::go_on() noexcept {
    _left.clear();
    for (auto& r : _relays) {
        r->start(_env.carriers.local().events());
    }
    tick();
}

std::optional<relay_memory> openings::take_memory(const trunk_far& channel) {
    return relay_memory::take(_relay_memory,
                              _relay_shares.find(channel.peer_identity(), (_relay_memory.limit() + 1) / 2));
}

}  // namespace vmsgr::trunks
