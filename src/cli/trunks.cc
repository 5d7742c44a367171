// vmsgr trunks: the sessions between this daemon and others.
#include <cstdio>

#include "cli/cli.hh"
#include "cli/document.hh"
#include "cli/table.hh"

namespace vmsgr::cli {

namespace {

std::string rtt_text(uint64_t us) { return us == 0 ? "-" : std::to_string(us) + "us"; }

// Packets and frames that were not taken, whatever the reason.
uint64_t dropped(const json& t) {
    uint64_t n = 0;
    for (const auto& [reason, count] : object_of(t, "dropped_by_reason").items()) {
        n += count.is_number_unsigned() ? count.get<uint64_t>() : 0;
    }
    return n;
}

void print_table(const json& trunks) {
    table t{" ",    "TRUNK",      "ADDRESS", "STATE", ">LANE",     ">CHANNELS",
            ">RTT", ">IN FLIGHT", ">IN",     ">OUT",  ">REPLAYED", ">DROPPED"};
    for (const auto& s : trunks) {
        const bool outgoing = s.contains("outgoing") && s["outgoing"] == true;
        t.row({outgoing ? ">" : "<", text_of(s, "name"), text_of(s, "address"), text_of(s, "state"), text_of(s, "lane"),
               text_of(s, "channels"), rtt_text(number_of(s, "rtt_us")), bytes_text(number_of(s, "in_flight_bytes")),
               bytes_text(number_of(s, "bytes_in")), bytes_text(number_of(s, "bytes_out")),
               std::to_string(number_of(s, "replayed")), std::to_string(dropped(s))});
    }
    printf("%s", t.text().c_str());
    for (const auto& s : trunks) {
        for (const auto& [reason, count] : object_of(s, "dropped_by_reason").items()) {
            printf("%s: %s: %s\n", text_of(s, "name").c_str(), reason.c_str(), count.dump().c_str());
        }
    }
}

}  // namespace

command add_trunks(CLI::App& app, const options& o) {
    app.footer("'>' marks a session that this daemon began, '<' one of a peer; (ended) sums up those of peers that\n"
               "are over, and connections that never became one. IN FLIGHT is kept until the peer has it.\n\n"
               "Examples:\n  vmsgr trunks\n  vmsgr trunks --json");
    return {[&o] {
        auto doc = ask_status(o.socket);
        if (!doc) {
            return say_error(exit_no_daemon, doc.error().text);
        }
        const json& trunks = list_of(*doc, "trunks");
        if (o.json) {
            puts(trunks.dump(2).c_str());
        } else if (trunks.empty()) {
            puts("no trunks; see trunk and trunks in vmsgrd(8)");
        } else {
            print_table(trunks);
        }
        return int(exit_ok);
    }};
}

}  // namespace vmsgr::cli
