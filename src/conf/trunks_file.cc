#include "conf/trunks_file.hh"

#include <unistd.h>

#include <algorithm>

#include "conf/words.hh"

namespace vmsgr::conf {

namespace {

constexpr uint64_t day_ms = 86'400'000;

void read_name(reader& r, const spot& at, std::string& out) {
    auto text = r.scalar(at, "a name without spaces");
    if (!text) {
        return;
    }
    bool fine = !text->empty() && text->size() < trunk::name_bytes &&
                std::ranges::all_of(*text, [](unsigned char c) { return c > ' ' && c < 127; });
    if (!fine) {
        r.refuse(at, quote(*text) + " is no name; expected up to " + std::to_string(trunk::name_bytes - 1) +
                         " printable characters without spaces");
        return;
    }
    out = *text;
}

void read_endpoint(reader& r, const spot& at, base::address& out) {
    out = r.endpoint(at, "an address with its port such as 10.0.0.1:6790 or [fd00::1]:6790").value_or(out);
}

void read_prefixes(reader& r, const spot& at, std::vector<base::prefix>& out) {
    constexpr std::string_view expected = "a prefix such as 10.0.0.0/8, fd00::/8 or a whole address";
    r.list(at, "a list of prefixes such as [10.0.0.0/8]", [&](const spot& s) {
        auto text = r.scalar(s, expected);
        auto p = text ? base::parse_prefix(*text) : std::nullopt;
        if (text && !p) {
            r.refuse(s, quote(*text) + " is not " + std::string(expected));
        } else if (p && out.size() == trunk_prefixes_max) {
            r.refuse(s, "is one prefix too many; " + std::to_string(trunk_prefixes_max) + " are allowed");
        } else if (p) {
            out.push_back(*p);
        }
    });
}

void read_path(reader& r, const spot& at, std::string& out) {
    auto text = r.scalar(at, "an absolute path of a PEM file");
    if (!text) {
        return;
    }
    if (!text->starts_with('/')) {
        r.refuse(at, quote(*text) + " is not an absolute path of a PEM file");
    } else if (::access(text->c_str(), R_OK) != 0) {
        r.refuse(at, quote(*text) + " cannot be read by this user");
    } else {
        out = *text;
    }
}

void read_tls(reader& r, const spot& at, trunk_tls& out) {
    bool fine = r.mapping(
        at, {
                {"ca", [&](const spot& s) { read_path(r, s, out.ca); }},
                {"certificate", [&](const spot& s) { read_path(r, s, out.certificate); }},
                {"key", [&](const spot& s) { read_path(r, s, out.key); }},
                {"crl", [&](const spot& s) { read_path(r, s, out.crl); }},
                {"names",
                 [&](const spot& s) {
                     r.list(s, "a list of common names", [&](const spot& each) {
                         if (out.names.size() == trunk_names_max) {
                             r.refuse(each,
                                      "is one name too many; " + std::to_string(trunk_names_max) + " are allowed");
                         } else if (auto text = r.scalar(each, "a common name")) {
                             out.names.push_back(*text);
                         }
                     });
                 }},
                {"rekey_bytes",
                 [&](const spot& s) {
                     out.rekey_bytes = r.size(s, 64 << 10, tls_key_bytes_max).value_or(out.rekey_bytes);
                 }},
            });
    if (fine && (out.ca.empty() || out.certificate.empty() || out.key.empty())) {
        r.refuse(at, "needs all of ca, certificate and key: both sides of a trunk show a certificate");
    }
}

void read_probe(reader& r, const spot& at, trunk_probe& out) {
    bool fine = r.mapping(at, {
                                  {"port", r.number_into(out.port, 1, 65535)},
                                  {"timeout_ms", r.number_into(out.timeout_ms, 10, 60'000)},
                                  {"peers", r.number_into(out.peers, 1, trunks_max)},
                                  {"absent_s", r.number_into(out.absent_s, 1, 86'400)},
                              });
    if (fine && !out.on()) {
        r.refuse(at, "'port' is missing; expected where daemons of other hosts listen for trunks, such as 6790");
    }
}

void read_packet_bytes(reader& r, const spot& at, uint32_t& out) {
    auto n = r.size(at, trunk::packet_bytes_min, trunk::packet_bytes_max);
    if (n && !trunk::valid_packet_bytes(*n)) {
        r.refuse(at, quote(at.node.Scalar()) + " is not a multiple of " + std::to_string(trunk::header_bytes));
    } else if (n) {
        out = uint32_t(*n);
    }
}

void read_peer(reader& r, const spot& at, trunk_peer& out) {
    bool fine = r.mapping(at, {
                                  {"name", [&](const spot& s) { read_name(r, s, out.name); }},
                                  {"connect", [&](const spot& s) { read_endpoint(r, s, out.connect); }},
                                  {"addresses", [&](const spot& s) { read_prefixes(r, s, out.addresses); }},
                                  {"sources", [&](const spot& s) { read_prefixes(r, s, out.sources); }},
                                  {"serves", [&](const spot& s) { read_prefixes(r, s, out.serves); }},
                              });
    if (!fine) {
        return;
    }
    if (out.name.empty()) {
        r.refuse(at, "'name' is missing; every trunk has one, so that it can be spoken of");
    } else if (out.connect.family == 0 && (out.sources.empty() || !out.addresses.empty())) {
        r.refuse(at, "'connect' is missing; expected where the peer's vmsgrd listens, such as 10.0.0.2:6790, or "
                     "'sources' alone for a peer that connects to this daemon");
    } else if (out.connect.family != 0 && out.addresses.empty()) {
        r.refuse(at, "'addresses' is missing; expected the destinations that the peer serves, such as [10.0.0.2]");
    } else if (out.sources.empty()) {
        out.sources = out.addresses;
        out.sources.push_back(whole(out.connect));
    }
}

}  // namespace

void read_trunk(reader& r, const spot& at, trunk_config& out) {
    r.mapping(
        at, {
                {"name", [&](const spot& s) { read_name(r, s, out.name); }},
                {"listen", [&](const spot& s) { read_endpoint(r, s, out.listen); }},
                {"accept_from", [&](const spot& s) { read_prefixes(r, s, out.accept_from); }},
                {"serves", [&](const spot& s) { read_prefixes(r, s, out.serves); }},
                {"packet_bytes", [&](const spot& s) { read_packet_bytes(r, s, out.packet_bytes); }},
                {"replay_bytes",
                 [&](const spot& s) { out.replay_bytes = r.size(s, 64 << 10, 1ull << 30).value_or(out.replay_bytes); }},
                {"memory_bytes",
                 [&](const spot& s) { out.memory_bytes = r.size(s, 4 << 20, 1ull << 34).value_or(out.memory_bytes); }},
                {"outage_ms", r.number_into(out.outage_ms, 0, day_ms)},
                {"keepalive_ms", r.number_into(out.keepalive_ms, 10, 60'000)},
                {"channels", r.number_into(out.channels, 1, 1 << 20)},
                {"sessions", r.number_into(out.sessions, 1, 1 << 16)},
                {"connections_per_peer", r.number_into(out.connections_per_peer, 1, UINT32_MAX)},
                {"tls", [&](const spot& s) { read_tls(r, s, out.tls); }},
                {"probe", [&](const spot& s) { read_probe(r, s, out.probe); }},
            });
}

void read_trunks(reader& r, const spot& at, trunk_config& out) {
    r.list(at, "a list of trunks", [&](const spot& s) {
        if (out.peers.size() == trunks_max) {
            r.refuse(s, "is one trunk too many; " + std::to_string(trunks_max) + " are allowed");
            return;
        }
        trunk_peer added;
        read_peer(r, s, added);
        auto same = std::ranges::find(out.peers, added.name, &trunk_peer::name);
        if (!r.failed() && same != out.peers.end()) {
            r.refuse(s, "name " + quote(added.name) + " is taken by trunks[" +
                            std::to_string(same - out.peers.begin()) + "]; give it another");
        }
        out.peers.push_back(std::move(added));
    });
}

void complete_trunks(trunk_config& out) {
    if (out.name.empty()) {
        char host[trunk::name_bytes] = {};
        ::gethostname(host, sizeof host - 1);
        out.name = host;
    }
    if (out.accept_from.empty() && !out.tls.on()) {
        for (auto& p : out.peers) {
            if (p.connect.family != 0) {
                out.accept_from.push_back(whole(p.connect));
            } else {
                out.accept_from.insert(out.accept_from.end(), p.sources.begin(), p.sources.end());
            }
        }
    }
}

}  // namespace vmsgr::conf
