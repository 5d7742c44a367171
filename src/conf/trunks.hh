// What the configuration says about trunks: `trunk:` is this daemon's own side, `trunks:` names its peers. Plain
// values, checked when they are read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/address.hh"
#include "proto/routes.hh"
#include "trunk/packet.hh"

namespace vmsgr::conf {

// The prefix of this one address.
inline base::prefix whole(const base::address& a) noexcept {
    return {a.family, uint8_t(a.family == AF_INET ? 32 : 128), a.ip};
}

inline constexpr size_t trunks_max = 256;
inline constexpr size_t trunk_prefixes_max = 64;
inline constexpr size_t trunk_names_max = 256;

// RFC 8446, 5.5: AES-GCM keeps its margin for 2^24.5 full records, 400 GB.
inline constexpr uint64_t tls_key_bytes_max = 64ull << 30;

// Files in PEM. The first three, or none: plain. They are read again when they change.
struct trunk_tls {
    std::string ca, certificate, key;
    std::string crl;  // revocation lists of the CA; empty: none. Read again like the others
    std::vector<std::string> names;  // a peer's certificate must have one of them; empty: any that the CA signed
    uint64_t rekey_bytes = tls_key_bytes_max;  // what a key encrypts before a new one follows it
    bool on() const noexcept { return !ca.empty(); }
    bool operator==(const trunk_tls&) const = default;
};

// A peer: where this daemon connects to it, and what it may do here (peer_rights.hh).
struct trunk_peer {
    std::string name;  // with TLS, one that the peer's certificate must have
    base::address connect;  // none: it connects to us alone
    std::vector<base::prefix> addresses;  // the destinations that it serves
    std::vector<base::prefix> sources;  // addresses that its programs have; filled by the reader where it says nothing
    std::vector<base::prefix> serves;  // own addresses that it may reach; empty: those of trunk.serves
};

// Asking daemons that no peer is named for: whoever `via: trunk` leads to, at this port of the very address.
struct trunk_probe {
    uint32_t port = 0;  // 0: nobody is asked
    uint32_t timeout_ms = 1000;  // for the connect, and again for TLS and hello
    uint32_t peers = 64;  // asked, learnt or remembered as absent, on a shard
    uint32_t absent_s = 60;  // who did not answer is not asked again
    bool on() const noexcept { return port != 0; }
};

struct trunk_config {
    std::string name;  // informational; the host's by default
    base::address listen;  // none: no peer may connect
    // Who may connect. Empty: with TLS everybody whose certificate is good; without TLS nobody, so the reader then puts
    // the addresses of `trunks` here.
    std::vector<base::prefix> accept_from;
    std::vector<base::prefix>
        serves;  // own addresses that peers may reach; empty: all. Never loopback (peer_rights.hh)
    uint32_t packet_bytes = trunk::packet_bytes_default;
    uint64_t replay_bytes = 8 << 20;  // of one session, kept until the peer has it
    uint64_t memory_bytes = 16 << 20;  // of all sessions of a shard together
    uint32_t outage_ms = 30000;  // a longer cut is shown to programs
    uint32_t keepalive_ms = 1000;
    uint32_t channels = 16384;  // of a session
    uint32_t sessions = 1024;  // that peers may have here, on a shard
    uint32_t connections_per_peer = 0;  // that one peer may have open here; 0: half of limits.connections
    trunk_tls tls;
    trunk_probe probe;
    std::vector<trunk_peer> peers;

    // For a route that does not say what it does without a trunk: encryption is not lost unasked.
    proto::without_trunk default_without() const noexcept {
        return tls.on() ? proto::without_trunk::wait : proto::without_trunk::direct;
    }
    bool wanted() const noexcept { return listen.family != 0 || !peers.empty() || probe.on(); }
};

}  // namespace vmsgr::conf
