#include "daemon/inheritance.hh"

#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>

#include <seastar/core/coroutine.hh>
#include <seastar/core/smp.hh>

namespace vmsgr::daemon {

namespace {

seastar::logger log("vmsgrd_kept");

// Nobody reads it: its program attaches again, and has another one then.
shm::mapping own_segment() {
    void* at = ::mmap(nullptr, sizeof(shm::session_segment), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        throw std::bad_alloc();
    }
    return {static_cast<std::byte*>(at), sizeof(shm::session_segment)};
}

conn::program_ptr new_program(const keeper::entry& e, conn::users& users, uint32_t connections, shm::mapping segment) {
    const auto& o = e.owner;
    return std::make_shared<conn::program>(o.session, o.pid, users.find(o.uid), conn::text_in(o.program), o.features,
                                           connections, std::move(segment));
}

}  // namespace

inheritance::inheritance(const keeper::seat& at, std::span<const keeper::kept> held, const conf::daemon_config& config,
                         conn::budget& all, conn::users& users, seastar::sharded<conn::carrier>& carriers)
    : _config(config), _budget(all), _carriers(carriers), _lists_again(at.stands_by) {
    for (size_t i = 0; i < held.size(); ++i) {
        if (held[i] == keeper::none_kept) {
            continue;
        }
        item found{&at.ledger[i], keeper::ledger_share::shard_of(i, seastar::smp::count), {}, {}};
        size_t n = 0;
        for (size_t k = 0; k < found.fds.size(); ++k) {
            found.fds[k].reset(held[i][k]);
            n += found.fds[k] ? 1U : 0U;
        }
        auto kind = found.entry->kind;
        if (at.suspect) {
            found.why_not = "the workers that did so ended at once";
        } else if (found.entry->version != keeper::ledger_version || n != keeper::descriptors_of(kind)) {
            found.why_not = "this version of vmsgrd does not know what it is";
        }
        kind = std::min(kind, keeper::entry_kind::relay);
        of(kind).push_back(std::move(found));
    }
    for (auto& s : of(keeper::entry_kind::session)) {
        begin_session(s, users);
    }
    for (auto& [kind, items] : _items) {
        for (auto& i : items) {
            i.owner = program_of(*i.entry, users);
        }
    }
}

void inheritance::begin_session(item& s, conn::users& users) {
    if (s.why_not != nullptr) {
        return;
    }
    auto map = shm::map_sealed(s.fds[keeper::kept_segment].get(), sizeof(shm::session_segment));
    if (!map) {
        s.why_not = "its memory cannot be mapped";
        return;
    }
    _programs[s.entry->owner.session] = new_program(*s.entry, users, _config.limits.connections_per_session,
                                                    std::move(*map));
    s.fds[keeper::kept_segment].reset();
}

// One whose session has ended, or was not in the keeper's hands yet, is known by what its connections say of it.
conn::program_ptr inheritance::program_of(const keeper::entry& e, conn::users& users) {
    auto& p = _programs[e.owner.session];
    if (!p) {
        p = new_program(e, users, _config.limits.connections_per_session, own_segment());
        p->end();
    }
    return p;
}

// As it would be without a keeper.
seastar::future<> inheritance::end(item& i, const char* why) {
    ++_end;
    log.debug("of pid {} (kind {}): {}", i.entry->owner.pid, unsigned(i.entry->kind), why);
    if (i.entry->kind != keeper::entry_kind::listener) {
        ::shutdown(i.fds.front().get(), SHUT_RDWR);
    }
    auto task = [e = i.entry, fds = std::move(i.fds), user = i.owner->owner](conn::carrier& c) mutable {
        c.close_when_back(*e, std::move(fds), std::move(user));
    };
    return _carriers.invoke_on(i.shard, std::move(task));
}

void inheritance::report(const char* what) {
    if (_go_on + _end != 0) {
        log.info("{} {} of an earlier worker go on, {} end", _go_on, what, _end);
    }
    _go_on = _end = 0;
}

seastar::future<> inheritance::connections(seastar::sharded<trunks::service>& trunks) {
    for (auto& i : of(keeper::entry_kind::trunks)) {
        if (i.why_not != nullptr) {
            co_await end(i, i.why_not);
            continue;
        }
        co_await trunks.invoke_on(
            i.shard, [&i](trunks::service& t) { return t.take_over(*i.entry, std::move(i.fds[keeper::kept_record])); });
    }
    for (auto& i : of(keeper::entry_kind::relay)) {
        if (i.why_not != nullptr) {
            co_await end(i, i.why_not);
            continue;
        }
        co_await trunks.invoke_on(
            i.shard, [&i](trunks::service& t) { t.take_over_relay(*i.entry, std::move(i.fds[keeper::kept_tcp])); });
    }
    _end = 0;
    for (auto& i : of(keeper::entry_kind::connection)) {
        auto place = conn::places::take(_budget, i.owner, _config.limits.ring_bytes);
        auto task = [this, &i, &trunks, place = place ? std::move(*place) : conn::places{}](conn::carrier& c) mutable {
            const auto& f = i.entry->connection;
            std::unique_ptr<conn::far_side> far;
            if (i.why_not == nullptr && f.trunk != 0) {
                far = trunks.local().claim({f.trunk, f.channel}, f.local, f.peer);
            }
            return c.take_over(*i.entry, std::move(i.fds), i.owner, std::move(place), _budget, i.why_not,
                               std::move(far));
        };
        const bool goes_on = co_await _carriers.invoke_on(i.shard, std::move(task));
        ++(goes_on ? _go_on : _end);
    }
    co_await trunks.invoke_on_all(&trunks::service::go_on);
    report("connections");
}

seastar::future<const char*> inheritance::listener(item& i, seastar::sharded<local::listeners>& to) {
    if (i.why_not != nullptr) {
        co_return i.why_not;
    }
    local::listen_request r;
    auto total = conn::lease::take(_budget.listeners, i.owner->owner->of.listeners);
    auto fds = conn::lease::take(_budget.fds, i.owner->owner->of.fds, conn::fds_per_listener);
    if (!total || !fds) {
        co_return conn::no_room_in_limits;
    }
    const auto& f = i.entry->listener;
    r.owner = i.owner;
    r.total = std::move(*total);
    r.fds = std::move(*fds);
    r.route = conn::text_in(f.route);
    r.program_fd = f.program_fd;
    r.local = (f.local & keeper::listener_takes_local) != 0;
    r.only_local = (f.local & keeper::listener_only_local) != 0;
    r.tcp = std::move(i.fds[keeper::kept_tcp]);
    auto task = [&i, r = std::move(r)](local::listeners& l) mutable {
        const char* why = l.take_over(*i.entry, r);
        return std::pair(why, std::move(r.tcp));
    };
    auto done = co_await to.invoke_on(i.shard, std::move(task));
    i.fds[keeper::kept_tcp] = std::move(done.second);
    co_return done.first;
}

seastar::future<const char*> inheritance::lifeline(item& i, seastar::sharded<local::listeners>& to) {
    return to.invoke_on(i.shard, [&i](local::listeners& l) {
        return i.why_not != nullptr ? i.why_not : l.take_over_lifeline(*i.entry, i.fds[keeper::kept_lifeline]);
    });
}

seastar::future<> inheritance::listeners(seastar::sharded<local::listeners>& to, local::registry& r,
                                         const std::string& doors) {
    std::vector<std::string> names;
    if (_lists_again) {
        r.lists_again();
    }
    for (auto& i : of(keeper::entry_kind::listener)) {
        const char* why = co_await listener(i, to);
        if (why == nullptr) {
            names.push_back(conn::text_in(i.entry->listener.door));
            ++_go_on;
        } else {
            co_await end(i, why);
        }
    }
    report("listeners");
    for (auto& i : of(keeper::entry_kind::lifeline)) {
        const char* why = co_await lifeline(i, to);
        if (why != nullptr) {
            co_await end(i, why);
        }
    }
    _end = 0;
    co_await to.invoke_on_all([](local::listeners& l) { l.lifelines_are_taken_over(); });
    r.forget_others();
    std::ranges::sort(names);
    local::knock_at_all(doors.c_str(), true, names);
}

seastar::future<> inheritance::sessions(attach::control_server& to) {
    for (auto& i : of(keeper::entry_kind::session)) {
        const bool goes_on = i.why_not == nullptr && to.take_over(*i.entry, i.fds[keeper::kept_control], i.owner);
        if (goes_on) {
            ++_go_on;
        } else {
            i.owner->end();
            co_await end(i, i.why_not != nullptr ? i.why_not : conn::no_room_in_limits);
        }
    }
    report("sessions");
}

}  // namespace vmsgr::daemon
