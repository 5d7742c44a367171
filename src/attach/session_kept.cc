// What outlives the worker: the keeper holds the control socket and the segment, so that a program does not notice that
// a worker has ended (docs/KEEPER.md). What the last one was doing just then is known to the byte or to nobody, and in
// that case the session ends and the program, which has its request still, attaches again.
#include <seastar/core/coroutine.hh>

#include "attach/session.hh"

namespace vmsgr::attach {

namespace {

constexpr uint32_t none_pending = 0, receives = 1;  // else a proto::kind
static_assert(uint32_t(proto::kind::listen) > receives);

// Nobody waits for an answer to it, and nothing of it is to be done any more.
bool may_be_lost(uint32_t pending) noexcept {
    return pending == none_pending || pending == uint32_t(proto::kind::connect) ||
           pending == uint32_t(proto::kind::deposit);
}

// A job whose message was received is not posted again by its program.
void free_job(shm::session_segment& segment, const keeper::session_facts& f) noexcept {
    if (f.pending.load(std::memory_order_acquire) == uint32_t(proto::kind::connect) && f.slot < shm::connect_slots) {
        auto& job = segment.connect[f.slot];
        if (job.state.load(std::memory_order_acquire) == shm::slot_posted && job.id == f.id) {
            job.state.store(shm::slot_free, std::memory_order_release);
        }
    }
}

}  // namespace

void session::note_receiving() noexcept {
    if (_entry != nullptr) {
        _entry->session.pending.store(receives, std::memory_order_release);
    }
}

void session::note_pending(const proto::request_msg& m) noexcept {
    if (_entry != nullptr) {
        auto& f = _entry->session;
        f.slot = m.slot;
        f.id = m.id;
        f.pending.store(uint32_t(m.what), std::memory_order_release);
    }
}

void session::note_done() noexcept {
    if (_entry != nullptr) {
        _entry->session.pending.store(none_pending, std::memory_order_release);
    }
}

// Where the channel is full, with the next message. Until then it ends with the worker.
void session::hand_over() noexcept {
    auto& kept = _server.deps().carriers.local().kept();
    auto* e = _segment ? kept.take(keeper::entry_kind::session) : nullptr;
    if (e == nullptr) {
        return;
    }
    conn::note_owner(*e, *_program);
    e->session.pending.store(none_pending, std::memory_order_relaxed);
    e->session.gid = _who.gid;
    const int fds[] = {_sock.get(), _segment.get()};
    if (kept.give(*e, fds)) {
        _entry = e;
        _segment.reset();
    }
}

bool session::go_on_with(keeper::entry& e, base::unique_fd& sock, conn::program_ptr p) {
    const auto& f = e.session;
    auto& all = _server.deps().budget;
    const bool knows = (e.owner.features & proto::feature_new_registry) != 0 ||
                       p->segment().registry.load(std::memory_order_relaxed) == _server.deps().registry.turn();
    if (!knows || !may_be_lost(f.pending.load(std::memory_order_acquire))) {
        return false;
    }
    _place = conn::lease::take(all.sessions, _user->of.sessions);
    _map = conn::lease::take(all.maps, _user->of.maps);
    if (!_place || !_map) {
        return false;
    }
    _sock = std::move(sock);
    if (unread_bytes() != 0) {
        // Answers of the last worker, as many as there may be: nothing is taken from it until it has read them.
        auto flies = in_flight(answers_unread_max * 2);
        if (!flies) {
            sock = std::move(_sock);
            return false;
        }
        _in_flight.front() = std::move(*flies);
        _unread = answers_unread_max;
    }
    free_job(p->segment(), f);
    p->segment().registry.store(_server.deps().registry.turn(), std::memory_order_release);
    _entry = &e;
    note_done();
    _program = std::move(p);
    return true;
}

// The keeper's copy goes first: what a stranger has left unread in it may take long to close.
seastar::future<> session::take_back() {
    auto& here = _server.deps().carriers.local();
    for (bool back = false; _entry != nullptr && !back && !_server.stops();) {
        back = co_await here.take_back(*_entry);
        if (back) {
            here.kept().leave(*std::exchange(_entry, nullptr));
        }
    }
}

}  // namespace vmsgr::attach
