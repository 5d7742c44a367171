// vmsgr trunks: the sessions between this daemon and others.
#include <cstdio>

#include "cli/cli.hh"
#include "cli/document.hh"
#include "cli/table.hh"

namespace vmsgr::cli {

namespace {

std::string rtt_text(uint64_t us) { return us == 0 ? "-" : std::to_string(us) + "us"; }

// Connections that the peer has opened here, in all its sessions, and how many it may.
std::string share_text(const json& s) {
    return s.contains("connections_of_peer_max")
               ? text_of(s, "connections_of_peer") + "/" + text_of(s, "connections_of_peer_max")
               : "-";
}

// Of packets and frames that were not taken, or of what was refused, whatever the reason.
uint64_t sum(const json& t, const char* key) {
    uint64_t n = 0;
    for (const auto& [reason, count] : object_of(t, key).items()) {
        n += count.is_number_unsigned() ? count.get<uint64_t>() : 0;
    }
    return n;
}

void print_reasons(const json& session, const char* key, const char* what) {
    for (const auto& [reason, count] : object_of(session, key).items()) {
        printf("%s: %s%s: %s\n", text_of(session, "name").c_str(), what, reason.c_str(), count.dump().c_str());
    }
}

void print_trunks(const json& trunks) {
    table t{" ",    "TRUNK",      "PEER", "ADDRESS", "STATE",     ">LANE",    ">CHANNELS", ">OF PEER",
            ">RTT", ">IN FLIGHT", ">IN",  ">OUT",    ">REPLAYED", ">DROPPED", ">REFUSED"};
    for (const auto& s : trunks) {
        const bool outgoing = s.contains("outgoing") && s["outgoing"] == true;
        const std::string peer = text_of(s, "peer");
        t.row({outgoing ? ">" : "<", text_of(s, "name"),
               peer == "-" || s.value("encrypted", false) ? peer : "(plain) " + peer, text_of(s, "address"),
               text_of(s, "state"), text_of(s, "lane"), text_of(s, "channels"), share_text(s),
               rtt_text(number_of(s, "rtt_us")), bytes_text(number_of(s, "in_flight_bytes")),
               bytes_text(number_of(s, "bytes_in")), bytes_text(number_of(s, "bytes_out")),
               std::to_string(number_of(s, "replayed")), std::to_string(sum(s, "dropped_by_reason")),
               std::to_string(sum(s, "refused_by_reason"))});
    }
    printf("%s", t.text().c_str());
    for (const auto& s : trunks) {
        print_reasons(s, "dropped_by_reason", "");
        print_reasons(s, "refused_by_reason", "refused for its ");
    }
}

}  // namespace

command add_trunks(CLI::App& app, const options& o) {
    app.footer(
        "'>' marks a session that this daemon began, '<' one of a peer; (ended) sums up those of peers that\n"
        "are over, and connections that never became one. PEER is who it has proved to be: by its certificate, or\n"
        "(plain) by its address. OF PEER: connections that the peer has opened here in all its sessions, and how many "
        "it\n"
        "may (trunk.connections_per_peer). IN FLIGHT is kept until the peer has it.\n\n"
        "Examples:\n  vmsgr trunks\n  vmsgr trunks --json");
    return {[&o] {
        auto doc = ask_status(o.socket, true);
        if (!doc) {
            return say_error(exit_no_daemon, doc.error().text);
        }
        const json& trunks = list_of(*doc, "trunks");
        if (o.json) {
            puts(trunks.dump(2).c_str());
        } else if (trunks.empty()) {
            puts(object_of(*doc, "shown").value("all", true) ? "no trunks; see trunk and trunks in vmsgrd(8)"
                                                             : "trunks are shown to root and access.observers alone");
        } else {
            print_trunks(trunks);
            printf("trunks are %s\n", text_of(object_of(*doc, "trunk"), "trusts").c_str());
        }
        return int(exit_ok);
    }};
}

}  // namespace vmsgr::cli
