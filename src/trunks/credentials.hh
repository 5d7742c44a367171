// A shard's certificates for trunks, read again by themselves when the files change, and the judgement on a peer's.
#pragma once

#include <exception>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <seastar/core/future.hh>
#include <seastar/core/shared_ptr.hh>
#include <seastar/net/api.hh>

#include "conf/trunks.hh"
#include "trunk/refusal.hh"

namespace seastar::tls {
class certificate_credentials;
class server_credentials;
}  // namespace seastar::tls

namespace vmsgr::trunks {

// Which end of a connection this side is.
struct link_role {
    bool dials = false;
    std::string wanted{};  // the name that the peer's certificate must have; empty: any that trunk.tls.names allows
};

// A good certificate, of somebody else than it should be.
class wrong_peer : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// What a failed handshake says of the peer; nothing: the connection broke.
std::optional<trunk::refusal> refusal_of(const std::exception_ptr& e) noexcept;

class credentials {
    seastar::shared_ptr<seastar::tls::certificate_credentials> _client;
    seastar::shared_ptr<seastar::tls::server_credentials> _server;
    std::vector<std::string> _names;

public:
    credentials();
    ~credentials();
    credentials(const credentials&) = delete;
    // Throws when a file is no certificate, key or list. `renewed`: files were read again, and who was let in by those
    // before is to be judged anew.
    seastar::future<> load(const conf::trunk_tls& files, std::function<void()> renewed);
    // Takes over what another has loaded, for handshakes from now on.
    void replace(credentials& by) noexcept {
        std::swap(_client, by._client);
        std::swap(_server, by._server);
        std::swap(_names, by._names);
    }
    bool on() const noexcept { return bool(_client); }

    struct secured {
        seastar::connected_socket socket;
        std::vector<std::string> names;  // of the peer's certificate
        std::string identity;  // trunk::identity_of it
    };
    // Handshake, and the peer's certificate judged: signed by the CA and not revoked, and its names fit.
    // Throws: wrong_peer, or what Seastar and GnuTLS have found.
    seastar::future<secured> wrap(seastar::connected_socket s, const link_role& role);
};

}  // namespace vmsgr::trunks
