// A document (kind::status, kind::routes) as it travels: pieces, each a reply with text behind it, as the client reads
// them. The last piece has no text. A piece with a status that is not 0 says that the rest cannot be had.
//
// So a document takes little memory at any time, whoever reads it how slowly, and no descriptor. Any thread.
#pragma once

#include <string_view>

#include "proto/control.hh"
#include "proto/routes.hh"

namespace vmsgr::proto {

inline constexpr size_t piece_text_max = 16 << 10;

struct document_piece {
    reply_msg head;
    char text[piece_text_max] = {};

    size_t bytes() const noexcept { return sizeof head + head.bytes; }
    std::string_view content() const noexcept { return {text, head.bytes}; }
};

// All routes that a table can hold are one piece, so that a client needs no other memory for them.
inline constexpr size_t route_text_max = route_name_bytes + route_program_bytes + 128;
static_assert(routes_max * route_text_max <= piece_text_max);

}  // namespace vmsgr::proto
