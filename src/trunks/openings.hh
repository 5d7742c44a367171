// What a peer's open brings: the program of this host that listens there gets the connection, or a relay connects to
// whoever else does, or it is refused.
//
// Owner: the shard's service. Sessions call on_open(); their channels' wires outlive nothing of it.
#pragma once

#include <memory>
#include <vector>

#include "trunk/refusal.hh"
#include "trunks/environment.hh"
#include "trunks/relay.hh"

namespace vmsgr::trunks {

class directory;

class openings {
    environment& _env;
    conn::usage _relay_memory;  // of this shard
    peer_shares _relay_shares;  // of that
    std::vector<std::unique_ptr<trunk_relay>> _relays;
    std::vector<kept_relay> _left;  // of another worker
    seastar::gate _gate;
    bool _refuses_all = false;

public:
    explicit openings(environment& env) noexcept;
    // No more opens; those under way have been answered, and relays end.
    seastar::future<> close();
    void tick() noexcept;
    void refuse_all(bool on) noexcept { _refuses_all = on; }
    // To programs without VMSGR.
    size_t relays() const noexcept { return _relays.size(); }
    // Opens that are not answered yet.
    size_t under_way() const noexcept { return _gate.get_count(); }
    // Bytes that relays keep, or have promised to keep.
    const conn::usage& relay_bytes() const noexcept { return _relay_memory; }

    // See trunk::engine_owner::on_open. `count`: what this peer is refused.
    trunk::channel_sink* on_open(trunk_session& s, trunk::refusals& count, uint64_t channel,
                                 const base::address& source, const base::address& destination);

    // --- from one worker to the next ---
    // The relays stand still, and go to the keeper as far as there is room. Throws std::bad_alloc.
    void hand_over(base::record_writer& to, keeper::ledger_share& kept);
    bool load(base::record_reader& from);
    // One of those, with its socket; it stands still until go_on(). Where it cannot both sides see a reset.
    void take_over(conn::channel_name which, base::unique_fd socket, directory& of);
    // See directory.
    void go_on() noexcept;

private:
    std::optional<trunk::refusal> judge(const peer_proof& who, const base::address& source,
                                        const base::address& destination) const noexcept;
    // The session of `w` keeps `count`.
    seastar::future<> open(std::unique_ptr<trunk_far> w, base::address destination, trunk::refusals& count);
    std::optional<relay_memory> take_memory(const trunk_far& channel);
    void relay(std::unique_ptr<trunk_far> w, const base::address& destination, trunk::refusals& count);
    // Into the queue of the program's listener.
    seastar::future<> deliver(std::unique_ptr<trunk_far> w, local::registry::found at);
    seastar::future<conn::brought> bring(conn::bring_request& r, seastar::weak_ptr<trunk_far> far);
};

}  // namespace vmsgr::trunks
