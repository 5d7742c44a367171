// One TCP connection of a trunk, as Seastar's streams: a descriptor that may move between shards becomes a
// connected_socket here, with TLS around it where the trunk has it. On the shard where it was made; the fibers that use
// it are trunk_session's.
#pragma once

#include <memory>
#include <string>

#include <seastar/core/future.hh>
#include <seastar/core/iostream.hh>
#include <seastar/net/api.hh>

#include "base/unique_fd.hh"
#include "conf/trunks.hh"
#include "trunk/packet.hh"

namespace seastar::tls {
class certificate_credentials;
class server_credentials;
}  // namespace seastar::tls

namespace vmsgr::net {

// A shard's certificates, read again by themselves when the files change.
class trunk_credentials {
    seastar::shared_ptr<seastar::tls::certificate_credentials> _client;
    seastar::shared_ptr<seastar::tls::server_credentials> _server;
    std::vector<std::string> _names;

public:
    trunk_credentials();
    ~trunk_credentials();
    trunk_credentials(trunk_credentials&&) noexcept;
    trunk_credentials& operator=(trunk_credentials&&) noexcept;
    // Throws when a file is no certificate or key.
    seastar::future<> load(const conf::trunk_tls& files);
    bool on() const noexcept { return bool(_client); }

    // Handshake, and the peer's certificate judged: signed by the CA, and its common name in the list. Throws.
    seastar::future<seastar::connected_socket> wrap(seastar::connected_socket s, bool as_client);
};

class trunk_link {
    base::unique_fd _handle;  // of the same socket: to end waits on it
    seastar::connected_socket _socket;
    seastar::input_stream<char> _in;
    seastar::output_stream<char> _out;
    bool _out_closed = false;

public:
    trunk_link() = default;
    // fd: connected, non-blocking.
    seastar::future<> start(base::unique_fd fd, trunk_credentials& tls, bool as_client);
    seastar::input_stream<char>& in() noexcept { return _in; }
    seastar::output_stream<char>& out() noexcept { return _out; }
    // Whoever waits on it is woken; nothing more comes or leaves.
    void shut() noexcept;
    // What was written leaves, and nothing after it: Seastar sends a flush of its own accord later, which shut() would
    // forestall.
    seastar::future<> finish_output() noexcept;
    // Once, before it ends; no fiber uses it any more.
    seastar::future<> close() noexcept;

    seastar::future<> send(std::span<const std::byte> bytes);
    // Exactly so many; fewer, and the connection has ended.
    seastar::future<size_t> receive(std::span<std::byte> into);
};

}  // namespace vmsgr::net
