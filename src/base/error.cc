#include "base/error.hh"

#include <errno.h>
#include <string.h>

namespace vmsgr::base {

// What stays is as much of both as there is place for behind the sign that something is left out.
void error_text::make_room(std::string_view& more) noexcept {
    constexpr std::string_view left_out = "...";
    constexpr size_t most = bytes_max - left_out.size();
    more = more.substr(more.size() - std::min(more.size(), most));
    const size_t kept = std::min<size_t>(_size, most - more.size());
    memmove(_text + left_out.size(), _text + _size - kept, kept);
    memcpy(_text, left_out.data(), left_out.size());
    _size = uint32_t(left_out.size() + kept);
}

error os_error(std::string_view what) noexcept {
    error e{errno};
    e.text += what;
    e.text += ": ";
    // strerror() may allocate, and asks for the locale.
    if (const char* why = ::strerrordesc_np(e.errnum)) {
        e.text += std::string_view(why);
    } else {
        e.text += "error ";
        e.text += e.errnum;
    }
    return e;
}

}  // namespace vmsgr::base
