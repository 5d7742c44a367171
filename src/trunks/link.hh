// One TCP connection of a trunk, as Seastar's streams: of a descriptor that may move between shards, with TLS where the
// trunk has it. On the shard where it was made: first one fiber
// exchanges the hellos, then those of trunk_session use it.
#pragma once

#include <expected>
#include <memory>
#include <string>
#include <vector>

#include <seastar/core/future.hh>
#include <seastar/core/iostream.hh>

#include "base/unique_fd.hh"
#include "trunk/handshake.hh"
#include "trunks/credentials.hh"

namespace vmsgr::trunks {

// Who is at the other end, as far as that is proved.
struct peer_proof {
    bool secured = false;  // by TLS
    std::vector<std::string> names;  // of its certificate
    base::address from;  // of the TCP connection
    std::string identity;  // of the certificate (trunk::identity_of), or the address, as text
};

class link {
    base::unique_fd _handle;  // of the same socket: to end waits on it
    std::shared_ptr<tls_session> _tls;  // null: there is none
    seastar::input_stream<char> _in;
    seastar::output_stream<char> _out;
    peer_proof _peer;
    bool _started = false;
    bool _out_closed = false;

public:
    link() = default;
    link(const link&) = delete;
    // fd: connected, non-blocking.
    seastar::future<> start(base::unique_fd fd, credentials& tls, const link_role& role);
    // Of a link that has started.
    const peer_proof& peer() const noexcept { return _peer; }
    trunk::below below() const noexcept { return _peer.secured ? trunk::below::tls : trunk::below::tcp; }
    seastar::input_stream<char>& in() noexcept { return _in; }
    // Every fiber that waits on it is woken; nothing more comes or leaves.
    void shut() noexcept;
    // What was written leaves, and nothing after it: Seastar sends a flush of its own accord later, which shut() would
    // forestall.
    seastar::future<> finish_output() noexcept;
    // Once, before it ends, also where start() has failed; no fiber uses it any more.
    seastar::future<> close() noexcept;

    seastar::future<> send(const trunk::hello& h);
    // All of it leaves; what does not fill a record, when the shard has nothing else to do.
    seastar::future<> send(seastar::net::packet batch);
    seastar::future<std::expected<trunk::hello, trunk::packet_fault>> receive_hello();
};

}  // namespace vmsgr::trunks
