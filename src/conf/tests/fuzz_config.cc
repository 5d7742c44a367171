// A configuration or route file: refused with a line that says where and why, or taken with values that can be used.
#include "base/tests/fuzz_input.hh"
#include "conf/config.hh"
#include "shm/segment.hh"

namespace {

using namespace vmsgr;
using fuzz::must;

void check_error(const base::error& e) {
    must(e.errnum != 0 && e.text.view().starts_with("fuzz.yaml"), "an error that does not name the file");
    must(e.text.view().find('\n') == std::string_view::npos, "an error of more than one line");
}

void check_routes(const proto::route_table& table) {
    static proto::route_table again;
    must(proto::parse_routes(to_text(table), again) && again.count == table.count, "routes that cannot be handed over");
}

void check_config(const conf::daemon_config& c) {
    must(c.socket.starts_with('/') && c.socket.size() < 108, "a socket that cannot be bound");
    must(c.shards >= 1 && c.shards <= conf::shards_max, "no such number of shards");
    must(shm::valid_ring_bytes(c.limits.ring_bytes), "rings that no memory has");
    must(c.limits.connections_per_session <= shm::connected_slots, "more connections than a session shows");
    must((c.access.mode & ~0777u) == 0, "a mode that is none");
    check_routes(c.routes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string_view text = fuzz::input(data, size).text();
    if (auto c = conf::parse_daemon_config(text, "fuzz.yaml")) {
        check_config(*c);
        auto other = conf::parse_daemon_config("shards: 1\n", "fuzz.yaml").value();
        (void)conf::keep_fixed(*c, other);
    } else {
        check_error(c.error());
    }
    if (auto r = conf::parse_routes_file(text, "fuzz.yaml")) {
        check_routes(*r);
    } else {
        check_error(r.error());
    }
    return 0;
}
