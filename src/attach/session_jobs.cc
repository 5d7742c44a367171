#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>

#include <seastar/core/coroutine.hh>
#include <seastar/core/semaphore.hh>
#include <seastar/util/defer.hh>

#include "attach/session.hh"
#include "base/sockets.hh"
#include "ssx/reserve.hh"

namespace vmsgr::attach {

// Its text is copied until there is a piece of it.
class session::document final : public document_writer {
    session& _s;
    const uint32_t _serial;
    size_t _filled = 0;
    proto::document_piece _piece;

public:
    document(session& s, uint32_t serial) : _s(s), _serial(serial) {}

    seastar::future<> write(std::string_view text) override {
        while (!text.empty()) {
            const size_t n = std::min(text.size(), sizeof _piece.text - _filled);
            memcpy(_piece.text + _filled, text.data(), n);
            _filled += n;
            text.remove_prefix(n);
            if (_filled == sizeof _piece.text) {
                co_await send();
            }
        }
    }
    seastar::future<> finish() {
        if (_filled != 0) {
            co_await send();
        }
        co_await send();
    }

private:
    seastar::future<> send() {
        _piece.head = {};
        _piece.head.serial = _serial;
        _piece.head.bytes = std::exchange(_filled, 0);
        return _s.send_piece(_piece);
    }
};

seastar::future<> session::handle(proto::request_msg m, proto::received& got) {
    using proto::kind;
    switch (m.what) {
    case kind::connect: co_await on_connect(m, got); break;
    case kind::listen: co_await on_listen(m, got); break;
    case kind::unlist: on_unlist(got); break;
    case kind::borrow: co_await on_borrow(m, got); break;
    case kind::deposit: on_deposit(m, got); break;
    case kind::adopt: co_await on_adopt(m, got); break;
    case kind::settled: reply(m, 0); break;
    case kind::registry: on_registry(m); break;
    case kind::go_back: co_await on_go_back(m, got); break;
    case kind::drain: co_await on_drain(m); break;
    case kind::status:
    case kind::routes: co_await send_document(m); break;
    default: break;  // check_request() lets no other through
    }
}

// What the daemon's own routes say; a program may have brought others. Null: nothing.
const proto::route* session::own_route(proto::role who, const base::address& a) const {
    return _server.deps().config.routes.match(_program->name, who, a);
}

bool session::show_room() noexcept {
    return _program && _program->connections.show_room(_user->room(_server.deps().config.limits.ring_bytes));
}

// 0, or the errno with which the connect fails.
int session::admit(conn::connect_request& r) {
    const auto* route = own_route(proto::role::client, r.peer);
    r.may_probe = route != nullptr && route->way == proto::via::trunk;
    if (route != nullptr && route->way == proto::via::deny) {
        return EACCES;
    }
    if (r.may_probe && route->without_trunk != proto::without_trunk::unset) {
        r.without = route->without_trunk;
    } else if (r.without == proto::without_trunk::unset) {
        r.without = _server.deps().config.trunks.default_without();
    }
    auto taken = conn::places::take(_server.deps().budget, _program, _server.deps().config.limits.ring_bytes);
    if (taken) {
        r.place = std::move(*taken);
    }
    if (show_room()) {
        _server.show_room_again();
    }
    return taken ? 0 : taken.error();
}

// There was no room for what came with it. A socket that was lost thereby was marked (feature_end_mark), so
// that both ends see a reset.
void session::fail_for_descriptors(const proto::request_msg& m) {
    ++_server.count().refused;
    if (m.what == proto::kind::connect && m.slot < shm::connect_slots) {
        (void)proto::take_job(_program->segment(), m, _program->session_id);  // its place is free again
    } else if (proto::has_answer(m.what)) {
        reply(m, EMFILE);
    }
}

seastar::future<> session::on_connect(proto::request_msg m, proto::received& got) {
    auto job = proto::take_job(_program->segment(), m, _program->session_id);
    if (!job) {
        break_rules(job.error());
        co_return;
    }
    conn::connect_request r;
    r.id = job->id;
    r.program_fd = job->program_fd;
    r.peer = job->peer;
    r.route = std::move(job->route);
    r.slot = job->arena_slot;
    r.by_trunk = job->by_trunk;
    r.without = job->without;
    r.bell = std::move(got.fds[0]);
    r.tcp = std::move(got.fds[1]);
    r.arena = std::move(got.fds[2]);
    if (job->own_linger) {
        r.mark = conn::end_mark(*job->own_linger);
    }
    r.place.owner = _program;
    r.refusal = admit(r);
    const unsigned shard = unsigned(r.id % seastar::smp::count);
    auto task = [r = std::move(r)](connector& c) mutable { return c.begin(std::move(r)); };
    if (auto broken = co_await _server.deps().connectors.invoke_on(shard, std::move(task))) {
        break_rules(broken->why, broken->text);
    }
}

seastar::future<> session::on_listen(proto::request_msg m, proto::received& got) {
    if (const char* why = base::not_tcp(got.fds[0].get())) {
        break_rules(conn::fault::bad_descriptor, std::string("listen: ") + why);
        co_return;
    }
    if (base::socket_option(got.fds[0].get(), SO_ACCEPTCONN) != 1) {
        reply(m, EINVAL);  // shut down before this request came
        co_return;
    }
    local::listen_request r;
    r.route = proto::route_name(m.route);
    r.local = (m.flags & proto::listen_no_local) == 0;
    r.only_local = (m.flags & proto::listen_only_local) != 0;
    r.backlog = m.backlog;
    r.program_fd = m.fd;
    auto& b = _server.deps().budget;
    auto total = conn::lease::take(b.listeners, _user->of.listeners);
    auto fds = conn::lease::take(b.fds, _user->of.fds, conn::fds_per_listener);
    const auto* route = own_route(proto::role::server, base::local_name(got.fds[0].get()));
    const bool denied = route != nullptr && route->way == proto::via::deny;
    const bool no_memory = ssx::is_short_of_memory();
    if (_server.drains() && !denied) {
        reply(m, EAGAIN);
        co_return;
    }
    if (!total || !fds || denied || no_memory || _user->is_suspended()) {
        ++(no_memory ? _server.count().no_memory : _server.count().refused);
        reply(m, denied ? EACCES : EAGAIN);
        co_return;
    }
    r.owner = _program;
    r.total = std::move(*total);
    r.fds = std::move(*fds);
    r.tcp = std::move(got.fds[0]);
    auto task = [r = std::move(r)](local::listeners& l) mutable { return l.begin(std::move(r)); };
    auto answer = co_await _server.deps().listeners.invoke_on(_server.next_shard(), std::move(task));
    if (answer.broken) {
        break_rules(answer.broken->why, answer.broken->text);
        co_return;
    }
    const int out[] = {answer.door.get(), answer.lifeline.get()};
    proto::reply_msg r2;
    r2.id = answer.id;
    memcpy(r2.data, answer.word.data(), answer.word.size());
    reply(m, answer.status, answer.status == 0 ? std::span(out) : std::span<const int>{}, r2);
    _server.let_go(answer.door, *_user);
    _server.let_go(answer.lifeline, *_user);
}

void session::on_unlist(proto::received& got) {
    const int door = got.fds[0].get();
    if (base::not_unix(door, SOCK_STREAM) != nullptr || base::socket_option(door, SO_ACCEPTCONN) != 1) {
        break_rules(conn::fault::bad_descriptor, "unlist: not a door");
        return;
    }
    // None: another's, or of an earlier daemon.
    if (const auto id = _server.deps().registry.owner_of_door(base::socket_cookie(door))) {
        _server.deps().registry.unlist(*id);
    }
}

void session::on_registry(const proto::request_msg& m) {
    const auto& registry = _server.deps().registry;
    const int fds[] = {registry.fd()};
    proto::reply_msg r;
    r.id = registry.turn();
    reply(m, 0, fds, r);
}

// The number only says where to look; the doorbell that is shown is the right.
seastar::future<> session::on_borrow(proto::request_msg m, proto::received& got) {
    const bool plain = (m.flags & proto::borrow_plain) != 0;
    auto task = [=, id = m.id, shown = got.fds[0].get()](conn::carrier& c) { return c.borrow(id, shown, plain); };
    auto lent = co_await _server.deps().carriers.invoke_on(unsigned(m.id % seastar::smp::count), std::move(task));
    const int fds[] = {lent.get()};
    reply(m, lent ? 0 : ENOENT, std::span(fds).first(lent ? 1 : 0));
}

seastar::future<> session::on_go_back(proto::request_msg m, proto::received& got) {
    auto task = [id = m.id, shown = got.fds[0].get()](conn::carrier& c) { return c.go_back(id, shown); };
    const auto gone = co_await _server.deps().carriers.invoke_on(unsigned(m.id % seastar::smp::count), std::move(task));
    const int fds[] = {gone.tcp.get()};
    reply(m, gone.status, std::span(fds).first(gone.tcp ? 1 : 0));
}

seastar::future<> session::on_drain(proto::request_msg m) {
    if (!is_in_charge(_who)) {
        reply(m, EPERM);
        co_return;
    }
    co_await _server.deps().drain((m.flags & proto::drain_cancel) == 0);
    reply(m, 0);
}

void session::on_deposit(const proto::request_msg& m, proto::received& got) {
    const bool kept = _server.kept().leave(_program->session_id, _user, got.fds[0].get(),
                                           std::span(got.fds).subspan(1, got.fd_count - 1), std::span(m.data), m.id);
    if (!kept) {
        ++_server.count().refused;
    }
}

// A listener's heir gets socket and lifeline from the listener itself: kept here, they would keep its port when all
// programs have closed it.
seastar::future<> session::on_adopt(proto::request_msg m, proto::received& got) {
    local::listeners::shared listener;
    auto found = _server.kept().look(_who.uid, got.fds[0].get());
    if (found && found->listener != 0) {
        auto task = [id = found->listener, door = base::socket_cookie(got.fds[0].get())](local::listeners& l) {
            return l.share(id, door);
        };
        const unsigned shard = unsigned(found->listener % seastar::smp::count);
        listener = co_await _server.deps().listeners.invoke_on(shard, std::move(task));
        found->fds = {listener.tcp.get(), listener.lifeline.get()};
    }
    if (!found || found->fds.front() < 0) {
        reply(m, ENOENT);
        co_return;
    }
    proto::reply_msg r;
    memcpy(r.data, found->data.data(), sizeof r.data);
    reply(m, 0, found->fds, r);
}

std::optional<conn::lease> session::in_flight(size_t descriptors) {
    auto place = conn::lease::take(_server.deps().budget.in_flight, _user->of.in_flight, descriptors);
    if (!place) {
        ++_server.count().refused;
    }
    return place;
}

int session::send_answer(const void* msg, size_t bytes, std::span<const int> fds, conn::lease flies) noexcept {
    const int err = proto::send_with_fds(_sock.get(), msg, bytes, fds, MSG_DONTWAIT);
    if (err == 0) {
        _in_flight[std::min<size_t>(_unread++, answers_unread_max)] = std::move(flies);
    }
    return err;
}

void session::reply(const proto::request_msg& m, int status, std::span<const int> fds, proto::reply_msg r) {
    conn::lease flies;
    if (!fds.empty()) {
        auto place = in_flight(fds.size());
        if (place) {
            flies = std::move(*place);
        } else {
            status = EMFILE;
            fds = {};
            r = {};
        }
    }
    r.status = status;
    r.serial = m.serial;
    if (send_answer(&r, sizeof r, fds, std::move(flies)) != 0) {
        close();
    }
}

// A user has a few documents under way, each of which takes some memory while it is read.
seastar::future<> session::send_document(const proto::request_msg& m) {
    const auto turn = co_await seastar::get_units(_user->documents, 1);
    const auto out = std::make_unique<document>(*this, m.serial);
    try {
        if (m.what == proto::kind::routes) {
            co_await out->write(proto::to_text(_server.deps().config.routes));
        } else {
            const auto viewer = viewer_at(_server.deps().config.access, _sock.get(), _who);
            co_await _server.deps().status(viewer, (m.flags & proto::status_brief) != 0, *out);
        }
        co_await out->finish();
    } catch (const reader_gone&) {
        close();
    }
}

}  // namespace vmsgr::attach
