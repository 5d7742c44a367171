// The number by which peers know this daemon, also after its restart: random, made once and kept in a file. Blocks for
// a small file; called at the start, before any reactor has work.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.hh"

namespace vmsgr::trunk {

struct node_id {
    uint64_t id = 0;
    std::string not_kept;  // why another number will be used after the next start; empty: it is kept
};
// Reads the file, or makes it. A file that holds no such number is replaced.
node_id load_node_id(const std::string& path);

}  // namespace vmsgr::trunk
