#include "trunk/node_id.hh"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <optional>

#include "base/random.hh"
#include "base/unique_fd.hh"

namespace vmsgr::trunk {

namespace {

constexpr size_t digits = 16;  // of hexadecimal, and a newline

std::optional<uint64_t> read_id(const std::string& path) {
    // Whatever lies there: neither a link nor a pipe nor a device may lead or hold us elsewhere.
    base::unique_fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    struct stat st;
    if (!fd || ::fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode)) {
        return std::nullopt;
    }
    char text[digits + 2];
    const ssize_t n = ::read(fd.get(), text, sizeof text);
    if (n != ssize_t(digits + 1) || text[digits] != '\n') {
        return std::nullopt;
    }
    uint64_t id = 0;
    auto [end, ec] = std::from_chars(text, text + digits, id, 16);
    return ec == std::errc{} && end == text + digits && id != 0 ? std::optional(id) : std::nullopt;
}

// Complete or not at all: the new file takes the old one's place once it is written.
base::result<void> write_id(const std::string& path, uint64_t id) {
    const std::string fresh = path + ".new";
    ::unlink(fresh.c_str());
    base::unique_fd fd(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) {
        return std::unexpected(base::os_error("cannot make " + fresh));
    }
    char text[digits + 2];
    snprintf(text, sizeof text, "%016llx\n", static_cast<unsigned long long>(id));
    if (::write(fd.get(), text, digits + 1) != ssize_t(digits + 1)) {
        return std::unexpected(base::os_error("cannot write " + fresh));
    }
    if (::rename(fresh.c_str(), path.c_str()) != 0) {
        return std::unexpected(base::os_error("cannot replace " + path));
    }
    return {};
}

}  // namespace

node_id load_node_id(const std::string& path) {
    if (auto kept = read_id(path)) {
        return {*kept, {}};
    }
    node_id made{base::random_u64_nonzero(), {}};
    if (auto written = write_id(path, made.id); !written) {
        made.not_kept = written.error().text;
    }
    return made;
}

}  // namespace vmsgr::trunk
