// What will happen to a program's connections, said before it starts: from its file, from what the dynamic linker would
// load with it, and from their code. `vmsgr doctor` prints it. Single thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hh"

namespace vmsgr::cli {

enum class weight : uint8_t {
    fine,
    hint,  // worth knowing; what the routes name is carried, as far as can be told
    maybe,  // something that the routes name may not be carried, or not all the time
    plain,  // it will not be
};
std::string_view to_text(weight w);

struct finding {
    weight how = weight::fine;
    std::string topic;  // a word for programs: "static", "io_uring"
    std::string text;  // what is so, one sentence
    std::string remedy;  // what to do; empty: nothing
};

struct checkup {
    std::string path;  // what would be executed
    std::string program;  // the file whose code runs: a script's interpreter
    std::string name;  // by which routes know the process
    std::vector<finding> findings;

    void add(weight how, std::string topic, std::string text, std::string remedy = {});
    bool all_carried() const;
};

// Error: there is no such program, or it cannot be executed.
base::result<checkup> examine(const std::string& name);

}  // namespace vmsgr::cli
