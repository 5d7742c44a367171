// Routes in compact text, as $VMSGR_ROUTES or a daemon gives them: refused, or taken and written again as the same.
#include "base/tests/fuzz_input.hh"
#include "proto/routes.hh"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace vmsgr;
    using fuzz::must;
    static proto::route_table table, again;  // too large for the stack of a sanitizer's build
    const std::string_view text = fuzz::input(data, size).text();
    if (!proto::parse_routes(text, table)) {
        return 0;
    }
    must(table.count <= proto::routes_max, "more routes than a table holds");
    const std::string written = to_text(table);
    must(proto::parse_routes(written, again), "what was written cannot be read");
    must(written == to_text(again), "what was written is read as something else");
    for (const auto& r : table) {
        must(proto::valid_word(r.name_text(), proto::route_name_bytes), "a name that is none");
        must(proto::valid_word(r.program_text(), proto::route_program_bytes), "a program that is none");
        (void)r.matches("ceph-osd", proto::role::client, *base::parse_address("10.0.0.1:6800"));
        (void)r.matches("ceph-osd", proto::role::server, *base::parse_address("[::]:6800"));
    }
    return 0;
}
