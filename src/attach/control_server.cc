#include "attach/control_server.hh"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <map>

#include <seastar/core/coroutine.hh>
#include <seastar/core/sleep.hh>
#include <seastar/core/gate.hh>
#include <seastar/coroutine/maybe_yield.hh>
#include <seastar/util/defer.hh>

#include "attach/session.hh"
#include "base/text.hh"
#include "ssx/spawn.hh"

namespace vmsgr::attach {

seastar::logger log("vmsgr_attach");

namespace {

// Clients that have connected and not yet said who they are, each for 2 s at most; of one user, and of all.
constexpr unsigned greeting_of_user_max = 32;
constexpr unsigned greeting_max = 256;
// Descriptors of one user that wait to be closed, before we take more from him.
constexpr uint32_t closing_of_user_max = 256;
constexpr auto closing_pause = std::chrono::milliseconds(2);
constexpr auto inheritance_time = std::chrono::seconds(2);
constexpr auto room_time = std::chrono::milliseconds(500);

}  // namespace

control_server::control_server(control_deps deps, control_socket& socket)
    : _deps(std::move(deps)),
      _socket(socket),
      _kept(_deps.budget, _deps.carriers.local()),
      _strangers(std::make_shared<net::user>(uid_t(-1), net::amounts{})) {}

control_server::~control_server() = default;

void control_server::start() {
    auto r = _deps.carriers.local().events().add(_socket.fd(), *this);
    if (!r) {
        throw std::runtime_error("cannot watch the control socket: " + r.error().text);
    }
    _events = std::move(*r);
    _room_timer.set_callback([this] {
        if (std::ranges::count_if(_sessions, [](auto& entry) { return entry.second->show_room(); }) != 0) {
            show_room_again();
        }
    });
    ssx::spawn(_gate, log, "accepting on the control socket", [this] { return accept_loop(); });
}

seastar::future<> control_server::stop() {
    _abort.request_abort();
    _room_timer.cancel();
    _events.reset();
    _point.wake();
    for (auto& [at, s] : _sessions) {
        s->close();
    }
    return _gate.close().then([this] { _kept.clear(); });
}

unsigned control_server::next_shard() noexcept { return _next_shard++ % seastar::smp::count; }

seastar::future<> control_server::accept_loop() {
    while (!_abort.abort_requested()) {
        _point.clear();
        base::unique_fd fd(::accept4(_socket.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (const auto who = fd ? identify(fd.get()) : std::nullopt) {
            try {
                begin_session(fd, *who);
            } catch (const std::bad_alloc&) {
                ++count().no_memory;
            }
            // Whoever is not let in may have sent something already.
            let_go(fd, *_strangers);
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

// fd stays as it is where he is not let in.
void control_server::begin_session(base::unique_fd& fd, const peer_identity& who) {
    auto user = _deps.users.find(who.uid);
    auto fds = net::lease::take(_deps.budget.fds, user->of.fds, net::fds_per_session);
    if (!fds || user->closing.waiting.load(std::memory_order_relaxed) >= closing_of_user_max) {
        ++count().refused;
        return;
    }
    make_room_to_greet(who.uid);
    auto s = std::make_unique<session>(*this, who, std::move(user), std::move(*fds));
    auto* at = s.get();
    _sessions.emplace(at, std::move(s));
    auto undo = seastar::defer([this, at]() noexcept { _sessions.erase(at); });
    _greeting.push_back(at);
    at->begin_with(std::move(fd));
    undo.cancel();
    if (!ssx::spawn(_gate, log, "a session", [this, at] {
            return at->run().finally([this, at] {
                greeted(at);
                _sessions.erase(at);
            });
        })) {
        greeted(at);
        _sessions.erase(at);
    }
}

// The oldest goes: of the newcomer's own, where he has many; of the user who has most, where there are too many.
void control_server::make_room_to_greet(uid_t newcomer) {
    std::map<uid_t, unsigned> of;
    for (auto* s : _greeting) {
        ++of[s->who().uid];
    }
    uid_t whose = newcomer;
    if (of[newcomer] < greeting_of_user_max) {
        if (_greeting.size() < greeting_max) {
            return;
        }
        whose = std::ranges::max_element(of, {}, [](auto& entry) { return entry.second; })->first;
    }
    const auto oldest = std::ranges::find_if(_greeting, [&](auto* s) { return s->who().uid == whose; });
    if (oldest != _greeting.end()) {
        ++count().refused;
        (*oldest)->close();
        _greeting.erase(oldest);
    }
}

void control_server::show_room_again() noexcept {
    if (!_room_timer.armed() && !_abort.abort_requested()) {
        _room_timer.arm(room_time);
    }
}

seastar::future<> control_server::room_to_close(const net::user& sender) {
    while (sender.closing.waiting.load(std::memory_order_relaxed) >= closing_of_user_max && !_abort.abort_requested()) {
        co_await seastar::sleep_abortable(closing_pause, _abort).handle_exception([](std::exception_ptr) {});
    }
}

namespace {

// Entries that were ever used, by the program's word.
std::span<shm::local_entry> locals_of(net::program& p) {
    auto& seg = p.segment();
    return std::span(seg.locals).first(std::min(seg.locals_used.load(std::memory_order_acquire), shm::local_slots));
}

bool is_open(const shm::local_entry& e) { return e.state.load(std::memory_order_acquire) == shm::slot_posted; }

// Sent so far; a program that ends without a close has entries that are open.
uint64_t bytes_local_of(net::program& p) {
    uint64_t sum = p.segment().bytes_local.load(std::memory_order_relaxed);
    for (const auto& e : locals_of(p)) {
        sum += is_open(e) ? e.bytes_out.load(std::memory_order_relaxed) : 0;
    }
    return sum;
}

}  // namespace

void control_server::program_ended(net::program& p) {
    p.end();
    auto& seg = p.segment();
    _bytes_local_past += bytes_local_of(p);
    _locals_past += seg.locals_opened.load(std::memory_order_relaxed);
    if (_kept.has_any(p.session_id)) {
        (void)seastar::with_gate(_gate, [this, id = p.session_id] {
            return seastar::sleep_abortable(inheritance_time, _abort)
                .handle_exception([](std::exception_ptr) {})
                .then([this, id] { _kept.forget_session(id); });
        });
    }
}

std::vector<control_server::local_row> control_server::list_locals(local_cursor& from, size_t limit) const {
    std::vector<local_row> out;
    while (out.size() < limit) {
        const net::program_ptr* next = nullptr;
        for (auto& [at, s] : _sessions) {
            const auto& p = s->program();
            if (p && p->session_id >= from.session && (next == nullptr || p->session_id < (*next)->session_id)) {
                next = &p;
            }
        }
        if (next == nullptr) {
            from.session = ~uint64_t{0};
            break;
        }
        auto& p = **next;
        if (p.session_id != from.session) {
            from = {p.session_id, 0};
        }
        auto all = locals_of(p);
        for (; from.entry < all.size() && out.size() < limit; ++from.entry) {
            // Written by the program: copied once, shown only.
            const auto& e = all[from.entry];
            if (is_open(e)) {
                out.push_back({p.session_id, p.pid, e.fd, e.role == 1, e.local, e.peer,
                               base::printable(e.route, sizeof e.route), e.bytes_in.load(std::memory_order_relaxed),
                               e.bytes_out.load(std::memory_order_relaxed), e.opened_s, p.uid(),
                               e.plain.load(std::memory_order_relaxed)});
            }
        }
        if (from.entry >= all.size()) {
            from = {p.session_id + 1, 0};
        }
    }
    return out;
}

control_server::local_totals control_server::count_locals() const {
    local_totals t{_bytes_local_past, _locals_past, 0};
    for (auto& [at, s] : _sessions) {
        if (const auto& p = s->program()) {
            auto& seg = p->segment();
            t.bytes += bytes_local_of(*p);
            t.opened += seg.locals_opened.load(std::memory_order_relaxed);
            t.turned_away += seg.turned_away.load(std::memory_order_relaxed);
        }
    }
    return t;
}

std::vector<session_info> control_server::list() const {
    std::vector<session_info> out;
    for (auto& [at, s] : _sessions) {
        if (const auto& p = s->program()) {
            auto& seg = p->segment();
            out.push_back({p->session_id, p->pid, p->uid(), p->name, p->connections.used(),
                           seg.connects_routed.load(std::memory_order_relaxed),
                           seg.listens_routed.load(std::memory_order_relaxed),
                           seg.fell_back.load(std::memory_order_relaxed), seg.faults.load(std::memory_order_relaxed),
                           proto::read_cause(seg.left_to_kernel.load(std::memory_order_relaxed))});
        }
    }
    return out;
}

}  // namespace vmsgr::attach
