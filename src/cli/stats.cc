#include "cli/stats.hh"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/clock.hh"
#include "base/unique_fd.hh"
#include "cli/query.hh"
#include "cli/table.hh"
#include "proto/requests.hh"

namespace vmsgr::cli {

namespace {

constexpr int64_t answer_ms = 1000;

base::result<std::string> read_all(int fd, const base::deadline& until) {
    std::string text;
    char buffer[16384];
    while (true) {
        const ssize_t n = ::recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (n > 0 && text.size() < document_bytes_max) {
            text.append(buffer, size_t(n));
        } else if (n >= 0) {
            return text;
        } else if (errno == EAGAIN) {
            pollfd p{fd, POLLIN, 0};
            if (::poll(&p, 1, until.left_ms()) == 0) {
                return base::fail(ETIMEDOUT, "no answer");
            }
        } else if (errno != EINTR) {
            return std::unexpected(base::os_error("recv"));
        }
    }
}

}  // namespace

base::result<std::string> ask_stats_text(const std::string& socket, const char* what) {
    const std::string path = socket + proto::stats_suffix, question = std::string(what) + "\n";
    sockaddr_un un;
    uint32_t len = 0;
    const base::deadline until(answer_ms);
    const base::unique_fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd || proto::unix_address(path.c_str(), &un, len) != 0 ||
        ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&un), len) != 0 ||
        ::send(fd.get(), question.data(), question.size(), MSG_NOSIGNAL) != ssize_t(question.size())) {
        return std::unexpected(base::os_error(path));
    }
    return read_all(fd.get(), until);
}

base::result<json> ask_stats(const std::string& socket, const char* what) {
    auto text = ask_stats_text(socket, what);
    if (!text) {
        return std::unexpected(text.error());
    }
    json doc = json::parse(*text, nullptr, false);
    if (!doc.is_object()) {
        return base::fail(EPROTO, socket + proto::stats_suffix + " answered with no JSON object");
    }
    return doc;
}

bool is_held(const json& doc) {
    const auto& shards = list_of(doc, "shards");
    return std::ranges::any_of(shards, [](const json& s) { return text_of(s, "state") != "running"; });
}

base::result<void> can_answer(const std::string& socket) {
    const auto health = ask_stats(socket, "health");
    if (!health) {
        return {};  // the daemon may know more
    }
    const json& shards = list_of(*health, "shards");
    if (!shards.empty() && text_of(shards.front(), "state") != "running") {
        const auto text = held_text(*health);
        return base::fail(ETIMEDOUT, "vmsgrd cannot answer: " + text.substr(0, text.find('\n')));
    }
    return {};
}

std::string held_text(const json& doc) {
    std::string out;
    for (const auto& s : list_of(doc, "shards")) {
        const auto state = text_of(s, "state");
        if (state == "stopped") {
            out += "shard " + text_of(s, "shard") + " is stopped, by a debugger or SIGSTOP (thread " +
                   text_of(s, "thread") + ")\n";
        } else if (state != "running") {
            out += "shard " + text_of(s, "shard") + " has not run for " +
                   seconds_text(double(number_of(s, "silent_s"))) + "; see where with: gdb -p " +
                   text_of(object_of(doc, "daemon"), "pid") + "\n";
        }
    }
    return out;
}

}  // namespace vmsgr::cli
