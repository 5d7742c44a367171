#include "base/process.hh"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/unique_fd.hh"

namespace vmsgr::base {

result<pid_t> fork_process() noexcept {
    const pid_t pid = ::fork();
    if (pid < 0) {
        auto why = os_error("fork");
        why.text += "; check the limits on processes";
        return std::unexpected(why);
    }
    return pid;
}

std::string_view read_of_thread(pid_t of, uint64_t thread, const char* file, std::span<char> buffer) noexcept {
    char path[96];
    snprintf(path, sizeof path, "/proc/%d/task/%llu/%s", of, static_cast<unsigned long long>(thread), file);
    const unique_fd fd(of <= 0 ? -1 : ::open(path, O_RDONLY | O_CLOEXEC));
    const ssize_t n = fd ? ::read(fd.get(), buffer.data(), buffer.size()) : -1;
    return n > 0 ? std::string_view(buffer.data(), size_t(n)) : std::string_view{};
}

// "4711 (reactor-0) t 1 ...": a name may hold anything but ends before the last parenthesis.
char state_in(std::string_view stat) noexcept {
    const auto end = stat.rfind(')');
    return end != stat.npos && end + 2 < stat.size() ? stat[end + 2] : '?';
}

}  // namespace vmsgr::base
