#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <seastar/core/coroutine.hh>

#include "attach/session.hh"
#include "base/text.hh"

namespace vmsgr::attach {

namespace {

// A program wrote it into shared memory, and may write on.
std::string route_name(const char* text) {
    return text[0] != 0 ? base::printable(text, shm::name_bytes) : std::string();
}

bool is_posted(const std::atomic<uint32_t>& state) {
    return state.load(std::memory_order_acquire) == shm::slot_posted;
}

// From here on the document's length and content stay.
base::result<base::unique_fd> document(const std::string& text) {
    auto fd = shm::create_sealed("vmsgr-document", text.size());
    if (!fd) {
        return fd;
    }
    for (size_t at = 0; at < text.size();) {
        ssize_t n = ::pwrite(fd->get(), text.data() + at, text.size() - at, off_t(at));
        if (n <= 0) {
            return std::unexpected(base::os_error("writing a document"));
        }
        at += size_t(n);
    }
    return fd;
}

}  // namespace

seastar::future<> session::handle(proto::request_msg m, proto::received got) {
    using proto::kind;
    bool job = m.what == kind::listen || m.what == kind::connect;
    if ((job && !_program) || (!job && got.fd_count != 0)) {
        break_rules(net::fault::bad_message, job ? "a job from a session that only asks" : "descriptors not asked for");
        co_return;
    }
    switch (m.what) {
    case kind::connect: co_await on_connect(m, std::move(got)); break;
    case kind::listen: co_await on_listen(m, std::move(got)); break;
    case kind::borrow: co_await on_borrow(m, net::carrier::part::socket); break;
    case kind::adopt: co_await on_borrow(m, net::carrier::part::memory); break;
    case kind::status: reply_document(m, co_await _server.deps().status()); break;
    case kind::routes: reply_document(m, proto::to_text(_server.deps().config.routes)); break;
    default: break_rules(net::fault::bad_message, "a message of an unknown kind");
    }
}

// What the daemon's own routes say; a program may have brought others.
proto::via session::way_of(proto::role who, const base::address& a) const {
    const auto* route = _server.deps().config.routes.match(_program->name, who, a);
    return route != nullptr ? route->way : proto::via::posix;
}

// 0, or the errno with which the connect fails.
int session::admit(net::connect_request& r) {
    const auto way = way_of(proto::role::client, r.peer);
    r.may_probe = way == proto::via::trunk;
    if (way == proto::via::deny) {
        return EACCES;
    }
    auto& b = _server.deps().budget;
    auto total = net::lease::take(b.connections);
    auto mine = net::lease::take(_program->connections);
    if (!total || !mine) {
        return EAGAIN;
    }
    const bool again = !r.memory;  // what is open for it stays open
    auto fds = net::lease::take(b.fds, again ? 0 : r.listener != 0 ? net::fds_per_local : net::fds_per_connection);
    if (!fds) {
        return ENOBUFS;
    }
    r.place.total = std::move(*total);
    r.place.of_session = std::move(*mine);
    r.place.fds = std::move(*fds);
    return 0;
}

seastar::future<> session::on_connect(proto::request_msg m, proto::received got) {
    const bool again = got.fd_count == 2;
    if (m.slot >= shm::connect_slots || (got.fd_count != 4 && !again)) {
        break_rules(net::fault::bad_job, "connect: a slot out of range, or neither 4 nor 2 descriptors");
        co_return;
    }
    auto& job = _program->segment().connect[m.slot];
    if (!is_posted(job.state)) {
        break_rules(net::fault::bad_job, "connect: a job that is not posted");
        co_return;
    }
    net::connect_request r;
    r.key = job.key;
    r.program_fd = job.fd;
    r.peer = job.peer;
    r.route = route_name(job.route);
    r.listener = job.listener;
    r.by_trunk = (job.flags & shm::connect_by_trunk) != 0;
    job.state.store(shm::slot_free, std::memory_order_release);
    if (r.key != m.key || r.key == 0 || (r.peer.family != AF_INET && r.peer.family != AF_INET6) ||
        (again && r.listener == 0)) {
        break_rules(net::fault::bad_job, "connect: another key than the message's, or no address, or no memory");
        co_return;
    }
    if (again) {
        r.bell = std::move(got.fds[0]);
        r.tcp = std::move(got.fds[1]);
    } else {
        r.memory = std::move(got.fds[0]);
        r.bell = std::move(got.fds[1]);
        r.tcp = std::move(got.fds[2]);
        r.page = std::move(got.fds[3]);
    }
    r.place.owner = _program;
    r.refusal = admit(r);
    std::optional<net::violation> broken;
    if (r.listener == 0) {
        auto task = [r = std::move(r)](net::connector& c) mutable { return c.begin(std::move(r)); };
        broken = co_await _server.deps().connectors.invoke_on(_server.next_shard(), std::move(task));
    } else if (auto shard = _server.deps().registry.shard_of(r.listener)) {
        auto task = [r = std::move(r)](net::listener& l) mutable { return l.offer(std::move(r)); };
        broken = co_await _server.deps().listeners.invoke_on(*shard, std::move(task));
    }  // else the listener has closed: the doorbell closes here, and shows a reset
    if (broken) {
        break_rules(broken->why, broken->text);
    }
}

// A refused listener's doorbell closes, and the program falls back.
seastar::future<> session::on_listen(proto::request_msg m, proto::received got) {
    if (m.slot >= shm::listen_slots || got.fd_count != 2) {
        break_rules(net::fault::bad_job, "listen: a slot out of range, or not 2 descriptors");
        co_return;
    }
    auto& job = _program->segment().listen[m.slot];
    if (!is_posted(job.state)) {
        break_rules(net::fault::bad_job, "listen: a job that is not posted");
        co_return;
    }
    net::listen_request r;
    r.key = job.key;
    r.route = route_name(job.route);
    base::address local = job.local;
    r.local = (job.flags & shm::listen_no_local) == 0;
    r.backlog = job.backlog;
    job.state.store(shm::slot_free, std::memory_order_release);
    if (r.key != m.key || r.key == 0) {
        break_rules(net::fault::bad_job, "listen: another key than the message's");
        co_return;
    }
    auto& b = _server.deps().budget;
    auto total = net::lease::take(b.listeners);
    auto fds = net::lease::take(b.fds, net::fds_per_listener);
    if (!total || !fds || way_of(proto::role::server, local) == proto::via::deny) {
        ++_server.count().refused;
        co_return;
    }
    r.owner = _program;
    r.total = std::move(*total);
    r.fds = std::move(*fds);
    r.tcp = std::move(got.fds[0]);
    r.bell = std::move(got.fds[1]);
    auto task = [r = std::move(r)](net::listener& l) mutable { return l.begin(std::move(r)); };
    auto broken = co_await _server.deps().listeners.invoke_on(_server.next_shard(), std::move(task));
    if (broken) {
        break_rules(broken->why, broken->text);
    }
}

// Keys of accepted connections tell their shard; those of connects are the program's own choice.
seastar::future<> session::on_borrow(proto::request_msg m, net::carrier::part what) {
    unsigned first = unsigned(m.key % seastar::smp::count);
    net::carrier::lent lent;
    for (unsigned i = 0; i < seastar::smp::count && !lent[0]; ++i) {
        lent = co_await _server.deps().carriers.invoke_on(
            (first + i) % seastar::smp::count,
            [key = m.key, what](net::carrier& c) { return c.borrow(key, what); });
    }
    // A listener's key: a program that inherited its doorbell asks for the listening socket.
    for (unsigned i = 0; i < seastar::smp::count && !lent[0] && what == net::carrier::part::socket; ++i) {
        lent[0] = co_await _server.deps().listeners.invoke_on(
            i, [key = m.key](net::listener& l) { return l.borrow(key); });
    }
    const int fds[] = {lent[0].get(), lent[1].get()};
    reply(m, lent[0] ? 0 : ENOENT, std::span(fds).first(!lent[0] ? 0 : lent[1] ? 2 : 1));
}

void session::reply(const proto::request_msg& m, int status, std::span<const int> fds, uint64_t bytes) {
    proto::reply_msg r;
    r.status = status;
    r.bytes = bytes;
    r.key = m.key;
    int err = proto::send_with_fds(_sock.get(), &r, sizeof r, fds, MSG_DONTWAIT);
    if (err == EAGAIN) {
        break_rules(net::fault::answers_not_read, "asks and does not read the answers");
    } else if (err != 0) {
        close();
    }
}

void session::reply_document(const proto::request_msg& m, const std::string& text) {
    auto fd = document(text);
    if (fd) {
        const int fds[] = {fd->get()};
        reply(m, 0, fds, text.size());
    } else {
        reply(m, fd.error().errnum);
    }
}

}  // namespace vmsgr::attach
