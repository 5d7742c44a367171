// The keeper holds the listening socket and the daemon's ends of its lifelines, so programs do not notice that a worker
// has ended, and need no knock (docs/KEEPER.md).
#include <errno.h>

#include <seastar/core/coroutine.hh>

#include "conn/kernel_socket.hh"
#include "local/listener.hh"

namespace vmsgr::local {

// Where the channel is full, later: at the next connection. Until then it ends with the worker.
void listener::hand_over() noexcept {
    auto& kept = _owner.local().kept();
    if (_entry == nullptr) {
        auto* e = _closed ? nullptr : kept.take(keeper::entry_kind::listener);
        if (e == nullptr) {
            return;
        }
        conn::note_owner(*e, *_r.owner);
        auto& f = e->listener;
        f.id = _id;
        f.door_cookie = _door.cookie;
        f.word = _word;
        f.program_fd = _r.program_fd;
        f.local = (_r.local ? keeper::listener_takes_local : 0u) | (_r.only_local ? keeper::listener_only_local : 0u);
        proto::copy_text(f.door, _door.name);
        proto::copy_text(f.route, _r.route);
        const int fds[] = {_r.tcp.get()};
        if (!kept.give(*e, fds)) {
            return;
        }
        _entry = e;
    }
    for (auto& l : _lifelines) {
        auto* e = l.entry == nullptr ? kept.take(keeper::entry_kind::lifeline) : nullptr;
        if (e == nullptr) {
            continue;
        }
        conn::note_owner(*e, *_r.owner);
        e->lifeline.listener = _id;
        const int fds[] = {l.fd.get()};
        l.entry = kept.give(*e, fds) ? e : nullptr;
    }
}

int listener::go_on(keeper::entry& e) {
    const auto& f = e.listener;
    _entry = &e;
    _word = f.word;
    _door.name = conn::text_in(f.door);
    _door.path = door_path(_owner._doors, _door.name);
    _door.cookie = f.door_cookie;
    if (conn::make_nonblocking(_r.tcp.get()) < 0) {
        return errno;
    }
    auto t = _owner.local().events().add(_r.tcp.get(), *this);
    if (!t) {
        return ENOMEM;
    }
    _tcp_events = std::move(*t);
    return 0;
}

bool listener::go_on_with(keeper::entry& e, base::unique_fd& fd) {
    auto* l = _closed ? nullptr : watch_lifeline(fd);
    if (l != nullptr) {
        l->entry = &e;
    }
    return l != nullptr;
}

void listener::has_its_lifelines() {
    if (_lifelines.empty() && !_closed && _heir.available()) {
        begin_to_await_heir();
    }
}

// Its port is free when the program sees the lifeline's end: no copy of the socket may be left then.
seastar::future<> listener::take_back() {
    if (_entry == nullptr) {
        co_return;
    }
    try {
        if (co_await _owner.local().take_back(*_entry)) {
            _owner.local().kept().leave(*std::exchange(_entry, nullptr));
        }
    } catch (const std::bad_alloc&) {
        ++_owner.local().count().no_memory;
    }
}

// Where take_back() was not called, or the keeper was late.
void listener::leave_entry() noexcept {
    if (_entry != nullptr) {
        conn::kept_descriptors copies;
        copies[keeper::kept_tcp] = conn::duplicate(_r.tcp.get());
        _owner.local().close_when_back(*std::exchange(_entry, nullptr), std::move(copies), _r.owner->owner);
    }
}

}  // namespace vmsgr::local
