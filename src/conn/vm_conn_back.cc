// The daemon is to leave: its direct connections become their programs' kernel sockets again, one by one, each at a
// moment when both of its rings are empty. The program asks (proto::kind::go_back) when it is marked (call_back), and
// publishes nothing until it has the answer. Where a ring is not empty:
//   - what came waits to be read: the far side is left unread for a moment, so that the program empties the ring
//   - what was sent waits to leave: the program holds back (end_hold) and asks again once all has left
// A program that never asks is carried on as ever, and is asked again from time to time.
#include <algorithm>

#include "base/sockets.hh"
#include "conn/carrier.hh"
#include "conn/kernel_socket.hh"
#include "conn/vm_conn.hh"
#include "proto/control.hh"

namespace vmsgr::conn {

namespace {

using namespace std::chrono_literals;

constexpr auto pause_longest = 100ms;
constexpr auto first_retry = 100ms;
constexpr unsigned retries_grow = 4;  // up to 16 times that

constexpr uint32_t marks = shm::end_go_back | shm::end_hold;

}  // namespace

std::string_view to_word(stays s) noexcept {
    switch (s) {
    case stays::no: return "other_holder";
    case stays::trunk: return "trunk";
    case stays::plain: return "plain";
    case stays::library: return "library";
    case stays::ending: return "ending";
    case stays::connecting: return "connecting";
    case stays::not_accepted: return "not_accepted";
    case stays::not_read: return "not_read";
    case stays::not_sent: return "not_sent";
    case stays::not_asked: return "not_asked";
    }
    return "";
}

std::string_view to_text(stays s) noexcept {
    switch (s) {
    case stays::no: return "the kernel has it, but another process holds it as well, or its program is just letting go";
    case stays::trunk: return "it goes over a trunk, and has no TCP connection of its own";
    case stays::plain: return "a program without the library has it (plain mode)";
    case stays::library: return "its program's library does not give connections back (libvmsgr, or an older one)";
    case stays::ending: return "it is ending";
    case stays::connecting: return "its connect is not decided yet";
    case stays::not_accepted: return "its program has not accepted it yet";
    case stays::not_read: return "its program has not read what came";
    case stays::not_sent: return "its peer does not take what was sent";
    case stays::not_asked: return "its program has not called on it yet";
    }
    return "";
}

stays vm_conn::why_it_stays() const noexcept {
    if (_far->path() != conn_path::direct) {
        return stays::trunk;
    }
    if (_back.gone) {
        return stays::no;
    }
    if (_life.over() || _life.gone() || _life.stopping || _life.program != life::side::held) {
        return stays::ending;
    }
    if (_plain || (program_flags() & shm::end_plain) != 0) {
        return stays::plain;
    }
    if ((_p.place.owner->features & proto::feature_go_back) == 0) {
        return stays::library;
    }
    if (_life.at == life::phase::connecting) {
        return stays::connecting;
    }
    if (_p.role == conn_role::server && (program_flags() & shm::end_accepted) == 0) {
        return stays::not_accepted;
    }
    return bytes_in_ring(1) != 0 ? stays::not_read : bytes_in_ring(0) != 0 ? stays::not_sent : stays::not_asked;
}

std::atomic<uint32_t>& vm_conn::own_flags() const noexcept { return _p.conduit.header().end[1].flags; }

// A token for whoever sleeps, unless one lies there.
void vm_conn::ring_once() noexcept {
    if (_p.bell && (_near.out.flags_set() & shm::ring_fin) == 0 && base::unread_by_peer(_near.doorbell.fd()) == 0) {
        _near.out.count_token();
        _near.doorbell.send_token();
    }
}

// False: it was paused for this before.
bool vm_conn::pause_reading(bool& once) noexcept {
    if (std::exchange(once, true)) {
        return false;
    }
    _back.paused_until = going_back::clock::now() + pause_longest;
    return true;
}

void vm_conn::read_again() noexcept {
    if (std::exchange(_back.paused_until, {}) != going_back::clock::time_point{}) {
        _in.wake();
    }
}

void vm_conn::call_back(going_back::clock::time_point now) noexcept {
    if (_back.gone) {
        ring_once();
        return;
    }
    if (_back.paused_until != going_back::clock::time_point{} && now >= _back.paused_until) {
        read_again();
    }
    const stays why = why_it_stays();
    if (now < _back.next || why < stays::not_read) {
        return;
    }
    _back.next = now + first_retry * (1u << std::min(_back.tries++, retries_grow));
    _back.asked = true;
    _back.paused_for_unread = _back.paused_for_unsent = false;
    if (why == stays::not_read) {
        pause_reading(_back.paused_for_unread);
    }
    own_flags().fetch_or(shm::end_go_back, std::memory_order_seq_cst);
    ring_once();
}

void vm_conn::stay() noexcept {
    if (_back.gone) {
        return;
    }
    _back.asked = false;
    _back.tries = 0;
    _back.next = {};
    own_flags().fetch_and(~marks, std::memory_order_seq_cst);
    read_again();
}

// All that was sent is in the socket, all that came was read, and no end is on its way.
bool vm_conn::is_quiet() noexcept {
    _pump.flush(_near.in.capacity());
    size_t n = 0;
    if (_life.over() || _near.in.data_bytes(n) != shm::look::ok || n != 0) {
        return false;
    }
    const uint32_t flags = _near.in.flags();
    const bool all_told = (flags & shm::ring_fin) == 0 || _life.out == life::way::ended;
    return _near.out.free_bytes(n) == shm::look::ok && _near.out.unread_seen() == 0 && all_told &&
           (flags & shm::ring_reset) == 0;
}

// What stands in the way decides what the program is to wait for.
int vm_conn::not_now() noexcept {
    if (_life.over()) {
        return ENOENT;
    }
    const bool unread = bytes_in_ring(1) != 0;
    if (unread) {
        const bool again = pause_reading(_back.paused_for_unread);
        own_flags().fetch_and(again ? ~uint32_t(shm::end_hold) : ~marks, std::memory_order_seq_cst);
    } else if (bytes_in_ring(0) != 0) {
        pause_reading(_back.paused_for_unsent);  // so that the other ring stays empty meanwhile
        own_flags().fetch_or(shm::end_hold, std::memory_order_seq_cst);
    } else {
        own_flags().fetch_and(~marks, std::memory_order_seq_cst);  // an end is on its way
    }
    return EAGAIN;
}

// In the program's word, while that says that it asks: it may have given up.
bool vm_conn::grant() noexcept {
    auto& word = _p.conduit.header().end[0].flags;
    uint32_t seen = word.load(std::memory_order_acquire);
    while ((seen & shm::end_asks) != 0) {
        if (word.compare_exchange_weak(seen, seen | shm::end_granted, std::memory_order_seq_cst)) {
            return true;
        }
    }
    return false;
}

// 0: it is the kernel's; else an errno. The program's word is what the next worker goes by, so that nothing is between.
int vm_conn::go_back() noexcept {
    if (_back.gone) {
        return 0;
    }
    if (!_back.asked || why_it_stays() < stays::not_read) {
        own_flags().fetch_and(~marks, std::memory_order_seq_cst);
        return EINVAL;
    }
    if (!is_quiet()) {
        return not_now();
    }
    if (!grant()) {
        return EAGAIN;
    }
    ++_carrier.count().given_back;
    leave_to_program();
    return 0;
}

void vm_conn::leave_to_program() noexcept {
    _back.gone = true;
    _far->unwatch();
    _lent_timer.cancel();
    _progress_timer.cancel();
    _p.mark.lift(tcp_fd());
    own_flags().fetch_or(shm::end_gone, std::memory_order_seq_cst);
    own_flags().fetch_and(~marks, std::memory_order_seq_cst);
    // Whoever sleeps on it looks: a writer finds its end writable, and the token stays for all readers.
    _near.in.take_those_here(_near.doorbell);
    ring_once();
}

// Its program was killed before it could take it: an end as any other.
void vm_conn::take_from_program() noexcept {
    _back.gone = false;
    if (!watch_far()) {
        step(life::event::far_failed, ENOMEM);
    }
}

}  // namespace vmsgr::conn
