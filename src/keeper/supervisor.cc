#include "keeper/supervisor.hh"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <charconv>

namespace vmsgr::keeper {

namespace {

constexpr timeval patience{.tv_sec = 0, .tv_usec = 100'000};

// Programs that vmsgrd starts have no part in it.
std::string take(const char* variable) {
    const char* value = ::getenv(variable);
    std::string text = value != nullptr ? value : "";
    ::unsetenv(variable);
    return text;
}

uint64_t number(const std::string& text) {
    uint64_t n = 0;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n);
    return ec == std::errc{} && end == text.data() + text.size() ? n : 0;
}

// The manager orders this against the READY=1 that follows.
std::string now_usec() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return std::to_string(uint64_t(now.tv_sec) * 1'000'000 + uint64_t(now.tv_nsec) / 1'000);
}

}  // namespace

socklen_t unix_address(std::string_view text, sockaddr_un& out) noexcept {
    if (text.size() < 2 || text.size() >= sizeof out.sun_path || (text[0] != '/' && text[0] != '@')) {
        return 0;
    }
    out = {};
    out.sun_family = AF_UNIX;
    text.copy(out.sun_path, text.size());
    const size_t bytes = offsetof(sockaddr_un, sun_path) + text.size();
    if (text[0] == '@') {
        out.sun_path[0] = 0;
        return socklen_t(bytes);
    }
    return socklen_t(bytes + 1);
}

supervisor supervisor::from_environment() {
    const std::string socket = take("NOTIFY_SOCKET");
    const uint64_t interval = number(take("WATCHDOG_USEC"));
    const std::string of = take("WATCHDOG_PID");
    const bool ours = of.empty() || number(of) == uint64_t(::getpid());
    return at(socket, std::chrono::microseconds(ours ? interval : 0));
}

supervisor supervisor::at(std::string_view address, std::chrono::microseconds watchdog) {
    supervisor s;
    s._manager_bytes = unix_address(address, s._manager);
    if (s._manager_bytes == 0) {
        return s;
    }
    s._address = address;
    s._socket.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (s._socket) {
        ::setsockopt(s._socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        s._watchdog = watchdog;
    }
    return s;
}

supervisor supervisor::through(base::unique_fd keeper, std::chrono::microseconds watchdog) {
    supervisor s;
    s._socket = std::move(keeper);
    ::setsockopt(s._socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    s._watchdog = watchdog;
    return s;
}

bool supervisor::say(std::string_view text, int flags) noexcept {
    const auto* to = _manager_bytes == 0 ? nullptr : reinterpret_cast<const sockaddr*>(&_manager);
    return !_socket || ::sendto(_socket.get(), text.data(), text.size(), flags | MSG_NOSIGNAL, to, _manager_bytes) >= 0;
}

bool supervisor::ready(std::string_view status) { return say("READY=1\nSTATUS=" + std::string(status), 0); }

bool supervisor::reloading() { return say("RELOADING=1\nMONOTONIC_USEC=" + now_usec(), 0); }

bool supervisor::stopping() noexcept { return say("STOPPING=1\nSTATUS=sends what is left", 0); }

bool supervisor::is_now(pid_t main) noexcept { return say("MAINPID=" + std::to_string(main), 0); }

bool supervisor::stands_by() noexcept { return say(word_stands_by, 0); }

bool supervisor::has_handed_over() noexcept { return say(word_handed_over, MSG_DONTWAIT); }

bool supervisor::pass_on(std::string_view text) noexcept { return say(text, MSG_DONTWAIT); }

void supervisor::alive() noexcept { (void)say("WATCHDOG=1", MSG_DONTWAIT); }

}  // namespace vmsgr::keeper
