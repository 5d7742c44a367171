#include "attach/control_server.hh"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include <seastar/core/coroutine.hh>
#include <seastar/core/sleep.hh>
#include <seastar/coroutine/maybe_yield.hh>

#include "attach/session.hh"
#include "ssx/spawn.hh"

namespace vmsgr::attach {

seastar::logger log("vmsgr_attach");

namespace {

// Clients that have connected and not yet said who they are, each for 2 s at most.
constexpr unsigned greeting_max = 256;

}  // namespace

control_server::control_server(control_deps deps, control_socket& socket)
    : _deps(std::move(deps)), _socket(socket) {}

control_server::~control_server() = default;

void control_server::start() {
    auto r = _deps.carriers.local().events().add(_socket.fd(), *this);
    if (!r) {
        throw std::runtime_error("cannot watch the control socket: " + r.error().text);
    }
    _events = std::move(*r);
    ssx::spawn(_gate, log, "accepting on the control socket", [this] { return accept_loop(); });
}

seastar::future<> control_server::stop() {
    _abort.request_abort();
    _events.reset();
    _point.wake();
    for (auto& [at, s] : _sessions) {
        s->close();
    }
    return _gate.close();
}

unsigned control_server::next_shard() noexcept { return _next_shard++ % seastar::smp::count; }

seastar::future<> control_server::accept_loop() {
    while (!_abort.abort_requested()) {
        _point.clear();
        if (_greeting >= greeting_max) {
            co_await _point.wait();
            continue;
        }
        base::unique_fd fd(::accept4(_socket.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (fd) {
            begin_session(std::move(fd));
            co_await seastar::coroutine::maybe_yield();
        } else if (errno == EAGAIN) {
            co_await _point.wait();
        } else {
            // Out of descriptors or memory, or a client that left again.
            ++count().accept_pauses;
            co_await seastar::sleep_abortable(std::chrono::milliseconds(20), _abort)
                .handle_exception([](std::exception_ptr) {});
        }
    }
}

void control_server::begin_session(base::unique_fd fd) {
    auto fds = net::lease::take(_deps.budget.fds, net::fds_per_session);
    if (!fds) {
        ++count().refused;
        return;
    }
    auto s = std::make_unique<session>(*this, std::move(fd), std::move(*fds));
    ssx::spawn(_gate, log, "a session", [this, s = std::move(s)]() mutable {
        auto* at = s.get();
        ++_greeting;
        _sessions.emplace(at, std::move(s));
        return at->run().finally([this, at] { _sessions.erase(at); });
    });
}

std::vector<session_info> control_server::list() const {
    std::vector<session_info> out;
    for (auto& [at, s] : _sessions) {
        if (const auto& p = s->program()) {
            auto& seg = p->segment();
            out.push_back({p->session_id, p->pid, p->uid, p->name, p->connections.used(),
                           seg.connects_routed.load(std::memory_order_relaxed),
                           seg.listens_routed.load(std::memory_order_relaxed),
                           seg.fell_back.load(std::memory_order_relaxed), seg.faults.load(std::memory_order_relaxed)});
        }
    }
    return out;
}

}  // namespace vmsgr::attach
