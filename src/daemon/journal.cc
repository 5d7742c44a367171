#include "daemon/journal.hh"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cinttypes>
#include <utility>

#include "keeper/supervisor.hh"

namespace vmsgr::daemon {

namespace {

constexpr std::pair<std::string_view, int> priorities[] = {
    {"ERROR", 3}, {"WARN", 4}, {"INFO", 6}, {"DEBUG", 7}, {"TRACE", 7}};

void add_field(std::string& entry, std::string_view name, std::string_view value) {
    entry.append(name);
    if (value.find('\n') == value.npos) {
        entry.append(1, '=').append(value).append(1, '\n');
        return;
    }
    entry.append(1, '\n');
    for (uint64_t bytes = value.size(), i = 0; i < 8; ++i) {
        entry.append(1, char(bytes >> 8 * i));
    }
    entry.append(value).append(1, '\n');
}

// What stands before `end`, which is taken off as well; nothing where it does not occur.
std::string_view take_until(std::string_view& text, std::string_view end) noexcept {
    const auto at = text.find(end);
    if (at == text.npos) {
        return {};
    }
    const auto taken = text.substr(0, at);
    text.remove_prefix(at + end.size());
    return taken;
}

}  // namespace

log_line read_log_line(std::string_view line) noexcept {
    while (line.ends_with('\n')) {
        line.remove_suffix(1);
    }
    log_line out;
    out.text = line;
    for (const auto& [word, priority] : priorities) {
        if (!line.starts_with(word)) {
            continue;
        }
        std::string_view rest = line;
        if (const auto where = take_until(rest, " - "); !where.empty()) {
            out.priority = priority;
            out.text = rest;
            std::string_view head = where;
            take_until(head, "[shard ");
            out.shard = head.substr(head.find_first_not_of(' ') == head.npos ? 0 : head.find_first_not_of(' '));
            out.shard = out.shard.substr(0, out.shard.find_first_of(":]"));
            out.part = where.substr(where.rfind(' ') + 1);
        }
        break;
    }
    return out;
}

std::string journal_entry(const log_line& line, uint64_t dropped) {
    std::string entry;
    add_field(entry, "PRIORITY", std::to_string(line.priority));
    add_field(entry, "SYSLOG_IDENTIFIER", "vmsgrd");
    add_field(entry, "MESSAGE", line.text);
    if (!line.shard.empty()) {
        add_field(entry, "VMSGR_SHARD", line.shard);
    }
    if (!line.part.empty()) {
        add_field(entry, "VMSGR_PART", line.part);
    }
    if (dropped != 0) {
        add_field(entry, "VMSGR_DROPPED", std::to_string(dropped));
    }
    return entry;
}

bool journal::wanted() {
    const char* stream = ::getenv("JOURNAL_STREAM");
    struct stat st{};
    uintmax_t device = 0, inode = 0;
    return stream != nullptr && sscanf(stream, "%" SCNuMAX ":%" SCNuMAX, &device, &inode) == 2 &&
           ::fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

journal::journal(const char* socket) {
    sockaddr_un un;
    const socklen_t bytes = keeper::unix_address(socket, un);
    base::unique_fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (bytes != 0 && fd && ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&un), bytes) == 0) {
        _socket = std::move(fd);
    }
}

std::streamsize journal::xsputn(const char* text, std::streamsize bytes) {
    const uint64_t dropped = _dropped.exchange(0, std::memory_order_relaxed);
    const std::string entry = journal_entry(read_log_line({text, size_t(bytes)}), dropped);
    if (::send(_socket.get(), entry.data(), entry.size(), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        _dropped.fetch_add(dropped + 1, std::memory_order_relaxed);
    }
    return bytes;
}

}  // namespace vmsgr::daemon
