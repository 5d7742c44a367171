#include "attach/control_server.hh"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include <seastar/core/coroutine.hh>
#include <seastar/core/gate.hh>
#include <seastar/coroutine/maybe_yield.hh>
#include <seastar/util/defer.hh>

#include "attach/session.hh"
#include "base/text.hh"
#include "ssx/pause.hh"
#include "ssx/reserve.hh"
#include "ssx/spawn.hh"

namespace vmsgr::attach {

seastar::logger log("vmsgr_attach");

namespace {

// Clients that have connected and not yet said who they are, each for 2 s at most; of one user, and of all.
constexpr unsigned greeting_of_user_max = 32;
constexpr unsigned greeting_max = 256;
constexpr auto greeting_least = std::chrono::milliseconds(50);
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
      _rows(_deps.page),
      _strangers(std::make_shared<conn::user>(uid_t(-1), conn::amounts{})) {}

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
    ssx::spawn_for_good(_gate, log, "accepting on the control socket", [this] { return accept_loop(); });
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

void control_server::rest() noexcept {
    _rests = true;
    for (auto& [at, s] : _sessions) {
        s->rest();
    }
}

unsigned control_server::next_shard() noexcept { return _next_shard++ % seastar::smp::count; }

seastar::future<> control_server::accept_loop() {
    while (!_abort.abort_requested()) {
        _point.clear();
        if (_rests) {
            co_await _point.wait();
            continue;
        }
        base::unique_fd fd(::accept4(_socket.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (const auto who = fd ? identify(fd.get()) : std::nullopt) {
            try {
                begin_session(fd, *who);
            } catch (const std::bad_alloc&) {
                ++count().no_memory;
            }
            // Whoever is not let in may have sent something already.
            if (fd) {
                let_go_of_client(fd, *_strangers);
            }
            co_await seastar::coroutine::maybe_yield();
        } else if (errno == EAGAIN) {
            co_await _point.wait();
        } else {
            // Out of descriptors or memory, or a client that left again.
            ++count().accept_pauses;
            co_await ssx::pause(std::chrono::milliseconds(20), _abort);
        }
    }
}

// fd stays as it is where he is not let in.
void control_server::begin_session(base::unique_fd& fd, const peer_identity& who) {
    if (ssx::is_short_of_memory()) {
        ++count().no_memory;
        return;
    }
    auto user = _deps.users.find(who.uid);
    auto fds = conn::lease::take(_deps.budget.fds, user->of.fds, conn::fds_per_session);
    if (!fds || user->closing.waiting.load(std::memory_order_relaxed) >= closing_of_user_max || !may_greet(*user)) {
        ++count().refused;
        return;
    }
    auto s = std::make_unique<session>(*this, who, std::move(user), std::move(*fds));
    auto* at = s.get();
    _sessions.emplace(at, std::move(s));
    auto ended = seastar::defer([this, at]() noexcept {
        greeted(at);
        _sessions.erase(at);
    });
    _greeting.push_back(at);
    ++at->user().greeting;
    at->begin_with(std::move(fd));
    ssx::spawn(_gate, log, "a session", [at, ended = std::move(ended)] { return at->run(); });
}

bool control_server::take_over(keeper::entry& e, base::unique_fd& sock, conn::program_ptr p) {
    const peer_identity who{e.owner.pid, e.owner.uid, e.session.gid};
    auto fds = conn::lease::take(_deps.budget.fds, p->owner->of.fds, conn::fds_per_session);
    if (!fds) {
        return false;
    }
    auto s = std::make_unique<session>(*this, who, p->owner, std::move(*fds));
    auto* at = s.get();
    _sessions.emplace(at, std::move(s));
    auto ended = seastar::defer([this, at]() noexcept { _sessions.erase(at); });
    if (!at->go_on_with(e, sock, std::move(p))) {
        return false;
    }
    ssx::spawn(_gate, log, "a session", [at, ended = std::move(ended)] { return at->run(); });
    return true;
}

// False: he has many who say nothing, and the oldest of them has come just now. So a flood is turned away at little
// cost, and the control socket's queue stays short.
bool control_server::may_greet(const conn::user& newcomer) {
    const conn::user* whose = &newcomer;
    if (newcomer.greeting < greeting_of_user_max) {
        if (_greeting.size() < greeting_max) {
            return true;
        }
        whose = &(*std::ranges::max_element(_greeting, {}, [](auto* s) { return s->user().greeting; }))->user();
    }
    const auto oldest = std::ranges::find_if(_greeting, [&](auto* s) { return &s->user() == whose; });
    if (oldest == _greeting.end()) {
        return true;
    }
    if (whose == &newcomer && seastar::lowres_clock::now() - (*oldest)->began < greeting_least) {
        return false;
    }
    ++count().refused;
    (*oldest)->close();
    greeted(*oldest);
    return true;
}

void control_server::greeted(session* s) noexcept {
    if (_greeting.remove(s) != 0) {
        --s->user().greeting;
    }
}

void control_server::show_room_again() noexcept {
    if (!_room_timer.armed() && !_abort.abort_requested()) {
        _room_timer.arm(room_time);
    }
}

seastar::future<> control_server::room_to_close(const conn::user& sender) {
    while (sender.closing.waiting.load(std::memory_order_relaxed) >= closing_of_user_max && !_abort.abort_requested()) {
        co_await ssx::pause(closing_pause, _abort);
    }
}

namespace {

// Of one call of list_locals(), which looks at so much at most.
constexpr size_t entries_at_once = 1024, programs_at_once = 256;

// Entries that were ever used, by the program's word, and no more of them than lie in memory: to look at one that the
// program has never written would make a page of it.
class local_list {
    std::span<shm::local_entry> _entries;
    std::array<unsigned char, sizeof(shm::session_segment::locals) / shm::page + 1> _present{};
    uintptr_t _first_page = 0;

public:
    explicit local_list(conn::program& p) {
        auto& seg = p.segment();
        const auto used = std::min(seg.locals_used.load(std::memory_order_acquire), shm::local_slots);
        _entries = std::span(seg.locals).first(used);
        const auto at = reinterpret_cast<uintptr_t>(_entries.data());
        _first_page = at / shm::page;
        const size_t bytes = at % shm::page + _entries.size_bytes();
        if (used != 0 && ::mincore(reinterpret_cast<void*>(_first_page * shm::page), bytes, _present.data()) != 0) {
            _entries = {};
        }
    }
    size_t size() const noexcept { return _entries.size(); }
    // Null: none, or not open.
    const shm::local_entry* open(size_t i) const noexcept {
        const auto& e = _entries[i];
        const auto first = reinterpret_cast<uintptr_t>(&e) / shm::page,
                   last = (reinterpret_cast<uintptr_t>(&e + 1) - 1) / shm::page;
        const bool present = (_present[first - _first_page] & _present[last - _first_page] & 1) != 0;
        return present && e.state.load(std::memory_order_acquire) == shm::slot_posted ? &e : nullptr;
    }
};

}  // namespace

void control_server::program_attached(session& s) {
    _programs.emplace(s.program()->session_id, &s);
    _rows.show(*s.program());
}

void control_server::program_ended(conn::program& p) noexcept {
    p.end();
    _programs.erase(p.session_id);
    _rows.hide(p.session_id);
    auto& seg = p.segment();
    // What it has sent on connections that it never closed counts, too.
    const local_list locals(p);
    uint64_t open = 0;
    for (size_t i = 0; i < locals.size(); ++i) {
        const auto* e = locals.open(i);
        open += e != nullptr ? e->bytes_out.load(std::memory_order_relaxed) : 0;
    }
    _bytes_local_past += seg.bytes_local.load(std::memory_order_relaxed) + open;
    _locals_past += seg.locals_opened.load(std::memory_order_relaxed);
    if (_kept.has_any(p.session_id)) {
        keep_for_heirs(p.session_id);
    }
}

// Where there is no memory to wait for them, they are too late.
void control_server::keep_for_heirs(uint64_t session) noexcept try {
    auto over = seastar::defer([this, session]() noexcept { _kept.forget_session(session); });
    ssx::spawn(_gate, log, "waiting for heirs",
               [this, over = std::move(over)] { return ssx::pause(inheritance_time, _abort); });
} catch (const std::bad_alloc&) {
    ++count().no_memory;
}

std::vector<control_server::local_row> control_server::list_locals(local_cursor& from) const {
    std::vector<local_row> out;
    size_t entries = entries_at_once;
    auto at = _programs.lower_bound(from.session);
    for (size_t programs = programs_at_once; at != _programs.end() && entries != 0 && programs != 0; --programs) {
        auto& p = *at->second->program();
        const local_list locals(p);
        uint32_t entry = p.session_id == from.session ? from.entry : 0;
        for (; entry < locals.size() && entries != 0; ++entry, --entries) {
            // Written by the program: copied once, shown only.
            if (const auto* e = locals.open(entry)) {
                out.push_back({p.session_id, p.pid, e->fd, e->role == 1, e->local, e->peer,
                               base::printable(e->route, sizeof e->route), e->bytes_in.load(std::memory_order_relaxed),
                               e->bytes_out.load(std::memory_order_relaxed), e->opened_s, p.uid(),
                               e->plain.load(std::memory_order_relaxed)});
            }
        }
        from = {p.session_id, entry};
        if (entry >= locals.size()) {
            from = {p.session_id + 1, 0};
            ++at;
        }
    }
    if (at == _programs.end()) {
        from.session = ~uint64_t{0};
    }
    return out;
}

control_server::local_totals control_server::count_locals() const {
    local_totals t{_bytes_local_past, _locals_past, 0};
    for (auto& [id, s] : _programs) {
        auto& seg = s->program()->segment();
        t.bytes += seg.bytes_local.load(std::memory_order_relaxed);
        t.opened += seg.locals_opened.load(std::memory_order_relaxed);
        t.turned_away += seg.turned_away.load(std::memory_order_relaxed);
    }
    return t;
}

void control_server::show_locals(const std::unordered_map<uint64_t, open_locals>& of_session) {
    _rows.show_locals([&](uint64_t session) {
        const auto open = of_session.find(session);
        auto all = open == of_session.end() ? open_locals{} : open->second;
        if (const auto at = _programs.find(session); at != _programs.end()) {
            all.bytes_out += at->second->program()->segment().bytes_local.load(std::memory_order_relaxed);
        }
        return std::pair(all.connections, all.bytes_out);
    });
}

std::vector<session_info> control_server::list(uint64_t after, size_t limit) const {
    std::vector<session_info> out;
    for (auto at = _programs.upper_bound(after); at != _programs.end() && out.size() < limit; ++at) {
        const auto& p = *at->second->program();
        auto& seg = p.segment();
        out.push_back({p.session_id, p.pid, p.uid(), p.name, p.connections.used(),
                       seg.connects_routed.load(std::memory_order_relaxed),
                       seg.listens_routed.load(std::memory_order_relaxed),
                       seg.fell_back.load(std::memory_order_relaxed), seg.faults.load(std::memory_order_relaxed),
                       proto::read_cause(seg.left_to_kernel.load(std::memory_order_relaxed))});
    }
    return out;
}

}  // namespace vmsgr::attach
