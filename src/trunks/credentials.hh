// A shard's certificates for trunks, read again by themselves when the files change, and the judgement on a peer's.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <seastar/core/future.hh>
#include <seastar/core/shared_ptr.hh>
#include <seastar/net/api.hh>

#include "conf/trunks.hh"

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

class credentials {
    seastar::shared_ptr<seastar::tls::certificate_credentials> _client;
    seastar::shared_ptr<seastar::tls::server_credentials> _server;
    std::vector<std::string> _names;

public:
    credentials();
    ~credentials();
    credentials(const credentials&) = delete;
    // Throws when a file is no certificate or key.
    seastar::future<> load(const conf::trunk_tls& files);
    bool on() const noexcept { return bool(_client); }

    struct secured {
        seastar::connected_socket socket;
        std::string peer;  // the first name of its certificate
    };
    // Handshake, and the peer's certificate judged: signed by the CA, and its names fit. Throws.
    seastar::future<secured> wrap(seastar::connected_socket s, const link_role& role);
};

}  // namespace vmsgr::trunks
