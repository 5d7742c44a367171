// Reads values out of a YAML tree and keeps the first thing that was wrong, so that the code of a section reads
// like a table. Internal to src/conf: nobody else sees yaml-cpp.
#pragma once

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/address.hh"
#include "base/error.hh"

namespace vmsgr::conf {

// A value and where it stands: the line of its key (1 is the first) and its path, "limits.sessions".
struct spot {
    YAML::Node node;
    std::string path;
    int line = 0;
};

class reader {
    std::string _name;
    std::optional<base::error> _error;

public:
    explicit reader(std::string name) : _name(std::move(name)) {}
    bool failed() const noexcept { return _error.has_value(); }
    base::error error() const { return _error.value_or(base::error{}); }

    // The first call counts. Returns nullopt, so that a reading function can end with it.
    std::nullopt_t refuse(const spot& at, std::string_view text);
    std::nullopt_t refuse_file(int errnum, std::string_view text);
    std::nullopt_t refuse_file(const base::error& e) { return refuse_file(e.errnum, e.text); }

    // The one document of text; nothing when it is no YAML, empty, or not one mapping.
    std::optional<spot> document(std::string_view text);

    // A mapping: each key once, each of them known. Keys are read in the file's order.
    struct field {
        std::string_view key;
        std::function<void(const spot&)> read;
    };
    bool mapping(const spot& at, std::initializer_list<field> fields);
    // A list; `each` is called with "path[i]".
    bool list(const spot& at, std::string_view expected, const std::function<void(const spot&)>& each);

    // expected: what to say a right value is, "a number from 1 to 256".
    std::optional<std::string> scalar(const spot& at, std::string_view expected);
    std::optional<uint64_t> number(const spot& at, uint64_t min, uint64_t max);
    std::optional<uint64_t> size(const spot& at, uint64_t min, uint64_t max);  // 64K, 256M, 1G, 4096
    std::optional<base::address> endpoint(const spot& at, std::string_view expected);  // with a port
    std::optional<size_t> word(const spot& at, std::span<const std::string_view> words);

    // Reads into `out` when the value is right.
    template <typename T>
    std::function<void(const spot&)> number_into(T& out, uint64_t min, uint64_t max) {
        return [this, &out, min, max](const spot& at) {
            if (auto n = number(at, min, max)) {
                out = T(*n);
            }
        };
    }
};

// The text of a file of at most config_bytes_max.
inline constexpr size_t config_bytes_max = 1 << 20;
std::optional<std::string> read_file(const std::string& path, reader& r);

}  // namespace vmsgr::conf
