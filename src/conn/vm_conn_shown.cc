// What a connection shows of itself: in its row of the page of counters, and when it is asked.
#include <sys/stat.h>

#include <algorithm>

#include "conn/carrier.hh"
#include "conn/vm_conn.hh"

namespace vmsgr::conn {

namespace {

uint64_t lasts_us(uint64_t since_us) noexcept {
    const uint64_t now = shm::stats_now_us();
    return since_us != 0 && since_us < now ? now - since_us : 0;
}

}  // namespace

shm::stats_route_row& vm_conn::route_row() noexcept { return _carrier.shown().route_row(_route); }

void vm_conn::show() noexcept {
    auto& owner = *_p.place.owner;
    _row->about.write({_id, owner.session_id, _opened_s, int32_t(owner.pid), _p.program_fd, owner.uid(), _route,
                       _p.role == conn_role::server, uint8_t(_far->path()), _local, _peer});
}

int vm_conn::program_fd() const noexcept {
    return _slot != shm::no_slot ? _p.place.owner->shown_fd(_slot) : _p.program_fd;
}

conn_info vm_conn::info() const {
    auto& owner = *_p.place.owner;
    const auto state = std::min(conn_state(_life.at), conn_state::closing);
    return {_id,
            owner.session_id,
            owner.pid,
            program_fd(),
            _p.role,
            _local,
            _peer,
            _p.route,
            seastar::this_shard_id(),
            state,
            _row->bytes_in,
            _row->bytes_out,
            _opened_s,
            _far->path(),
            owner.uid(),
            _far->encrypted(),
            _far->peer_identity(),
            plain_state(),
            why_it_stays(),
            uint32_t(_p.conduit.capacity),
            bytes_in_ring(1),
            bytes_in_ring(0),
            lasts_us(_row->program_stalls_since_us),
            lasts_us(_row->far_stalls_since_us)};
}

// The program writes one of the indices, so it may be anything; this is for people.
uint64_t vm_conn::bytes_in_ring(unsigned which) const noexcept {
    const auto& words = _p.conduit.header().ring[which];
    const uint64_t tail = words.tail.load(std::memory_order_relaxed);
    return std::min<uint64_t>(words.head.load(std::memory_order_relaxed) - tail, _p.conduit.capacity);
}

plain_info vm_conn::plain_state() const {
    if (!_plain) {
        return {};
    }
    struct stat st{};
    const bool known = _p.bell && ::fstat(_near.doorbell.fd(), &st) == 0;
    const uint32_t says = program_flags();
    constexpr uint32_t cause_bits = 0xff;
    return {true, (says & shm::end_moved) != 0, proto::read_cause(says >> shm::end_cause_shift & cause_bits),
            known ? uint64_t(st.st_ino) : 0};
}

}  // namespace vmsgr::conn
