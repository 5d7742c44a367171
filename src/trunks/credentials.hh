// A shard's certificates for trunks, read again by themselves when the files change, and the judgement on a peer's.
#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <seastar/core/future.hh>

#include "conf/trunks.hh"
#include "trunk/refusal.hh"
#include "trunks/tls.hh"

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
    struct loaded;
    std::shared_ptr<loaded> _loaded;

public:
    credentials();
    ~credentials();
    credentials(const credentials&) = delete;
    // Throws when a file is no certificate, key or list.
    seastar::future<> load(const conf::trunk_tls& files);
    // To be asked each second: were files changed, and read again? Then who was let in by those before is to be judged
    // anew. One call at a time; what is wrong with them is logged once. Throws std::bad_alloc.
    seastar::future<bool> look_again();
    // Takes over what another has loaded, for handshakes from now on.
    void replace(credentials& by) noexcept { std::swap(_loaded, by._loaded); }
    bool on() const noexcept { return bool(_loaded); }

    struct secured {
        std::shared_ptr<tls_session> session;
        std::vector<std::string> names;  // of the peer's certificate
        std::string identity;  // trunk::identity_of it
    };
    // Handshake, and the peer's certificate judged: signed by the CA and not revoked, and its names fit.
    // Throws wrong_peer, tls_error, or std::system_error.
    seastar::future<secured> secure(seastar::pollable_fd fd, const link_role& role);
};

}  // namespace vmsgr::trunks
