#include "trunk/refusal.hh"

namespace vmsgr::trunk {

namespace {

constexpr std::string_view words[refusal_kinds] = {"address",     "crowd",      "descriptors", "certificate",
                                                   "name",        "sessions",   "connections", "source",
                                                   "destination", "own_source", "no_trunk",    "memory"};

}  // namespace

std::string_view to_text(refusal r) noexcept { return words[size_t(r)]; }

}  // namespace vmsgr::trunk
