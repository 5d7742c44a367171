// A sequence of events, one a byte; the rules hold after each, and across a save and a restore. Bytes that are said to
// be a saved connection are refused, or taken exactly.
#include <string.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <cstring>

#include "life/tests/rules.hh"

namespace {

using namespace vmsgr::life;

void must(const char* broken, const connection& at, int e) {
    if (broken != nullptr) {
        fprintf(stderr, "%s: event %d, phase %d\n", broken, e, int(at.at));
        abort();
    }
}

void take_saved_bytes(std::span<const std::byte> bytes) {
    if (auto c = connection::restore(bytes)) {
        const auto again = c->save();
        must(memcmp(again.data(), bytes.data(), again.size()) == 0 ? nullptr : "restore took other bytes", *c, -1);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) {
        return 0;
    }
    take_saved_bytes(std::as_bytes(std::span(data, size)));
    connection c = (data[0] & 1) != 0 ? connection::accepted() : connection{};
    for (size_t i = 1; i < size; ++i) {
        const int e = data[i] % events;
        constexpr int errors[] = {ECONNRESET, EPIPE, ETIMEDOUT, 0};
        const connection before = c;
        const actions todo = c.apply(event(e), errors[data[i] / events % 4]);
        must(broken_rule(before, event(e), c, todo), c, e);
        c = connection::restore(c.save()).value();
    }
    return 0;
}
