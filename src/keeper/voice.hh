// Lines on stderr from a process that must not wait for whoever reads them. Single thread.
#pragma once

#include <array>
#include <format>
#include <string_view>
#include <utility>

#include "base/unique_fd.hh"

namespace vmsgr::keeper {

class voice {
    base::unique_fd _reopened;  // of a pipe or a terminal: without waiting, which the others who share it may want
    bool _is_socket = false;

public:
    // Before rights are given up: a pipe is opened again by its path in /proc.
    voice() noexcept;
    // "vmsgrd: TEXT\n". Lost where nobody takes it.
    template <typename... A>
    void say(std::format_string<A...> how, A&&... what) const {
        std::array<char, 512> text;
        const auto end = std::format_to_n(text.data(), text.size(), how, std::forward<A>(what)...).out;
        write({text.data(), end});
    }

private:
    void write(std::string_view text) const noexcept;
};

}  // namespace vmsgr::keeper
