#include "cli/proc.hh"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "cli/program.hh"

namespace vmsgr::cli {

namespace {

std::string proc_path(pid_t pid, const std::string& what) { return "/proc/" + std::to_string(pid) + "/" + what; }

std::optional<std::string> read_link(const std::string& path) {
    char buf[4096];
    ssize_t n = ::readlink(path.c_str(), buf, sizeof buf);
    return n < 0 ? std::nullopt : std::optional(std::string(buf, size_t(n)));
}

// "0100007F:1A90": words of four bytes in the machine's order, the port as a number.
std::optional<base::address> parse_hex_address(const std::string& text) {
    base::address a;
    auto colon = text.find(':');
    if (colon != 8 && colon != 32) {
        return std::nullopt;
    }
    a.family = colon == 8 ? AF_INET : AF_INET6;
    for (size_t word = 0; word < colon / 8; ++word) {
        auto value = uint32_t(strtoul(text.substr(word * 8, 8).c_str(), nullptr, 16));
        memcpy(a.ip.data() + word * 4, &value, 4);
    }
    a.port = uint16_t(strtoul(text.c_str() + colon + 1, nullptr, 16));
    return a;
}

struct inet_line {
    base::address local, peer;
    unsigned state = 0;
    uint64_t inode = 0;
};

// One line of /proc/net/tcp and its kin: "sl local rem st tx:rx tr:when retrnsmt uid timeout inode ...".
std::optional<inet_line> parse_inet_line(const std::string& text) {
    std::istringstream in(text);
    std::string slot, local, peer, state, queues, timer, retransmits, uid, timeout;
    inet_line l;
    if (!(in >> slot >> local >> peer >> state >> queues >> timer >> retransmits >> uid >> timeout >> l.inode)) {
        return std::nullopt;
    }
    auto a = parse_hex_address(local), b = parse_hex_address(peer);
    if (!a || !b) {
        return std::nullopt;
    }
    l.local = *a;
    l.peer = *b;
    l.state = unsigned(strtoul(state.c_str(), nullptr, 16));
    return l;
}

template <typename Each>
void each_line(const std::string& path, Each&& each) {
    std::ifstream in(path);
    std::string line;
    std::getline(in, line);  // titles
    while (std::getline(in, line)) {
        each(line);
    }
}

constexpr unsigned state_listen = 10;

}  // namespace

bool process_exists(pid_t pid) { return pid > 0 && ::access(proc_path(pid, "").c_str(), F_OK) == 0; }

std::string program_of(pid_t pid) {
    std::ifstream in(proc_path(pid, "cmdline"), std::ios::binary);
    std::string word;
    std::getline(in, word, '\0');
    // Some programs write a title over it: "nginx: worker process", "redis-server 127.0.0.1:6379".
    word = word.substr(0, word.find_first_of(": "));
    return std::string(basename_of(word));
}

std::string executable_of(pid_t pid) { return proc_path(pid, "exe"); }

base::result<std::string> descriptor_link(pid_t pid, int fd) {
    auto link = read_link(proc_path(pid, "fd/" + std::to_string(fd)));
    if (!link) {
        return base::fail(errno, strerror(errno));
    }
    return *link;
}

std::optional<uint64_t> socket_inode(const std::string& link) {
    if (!link.starts_with("socket:[")) {
        return std::nullopt;
    }
    return strtoull(link.c_str() + strlen("socket:["), nullptr, 10);
}

std::optional<uint64_t> socket_at(pid_t pid, int fd) {
    const auto link = descriptor_link(pid, fd);
    return link ? socket_inode(*link) : std::nullopt;
}

socket_table::socket_table(pid_t pid) {
    for (const auto& [table, kind] :
         {std::pair("net/udp", socket_kind::udp), std::pair("net/udp6", socket_kind::udp),
          std::pair("net/tcp", socket_kind::tcp), std::pair("net/tcp6", socket_kind::tcp)}) {
        each_line(proc_path(pid, table), [&, kind](const std::string& line) {
            if (const auto l = parse_inet_line(line)) {
                const bool listening = kind == socket_kind::tcp && l->state == state_listen;
                _by_inode[l->inode] = {kind, l->local, l->peer, listening};
                if (listening) {
                    _served_ports.insert(l->local.port);
                }
            }
        });
    }
    each_line(proc_path(pid, "net/unix"), [&](const std::string& line) {
        std::istringstream in(line);
        std::string num, refs, protocol, flags, type, state;
        uint64_t inode = 0;
        if (in >> num >> refs >> protocol >> flags >> type >> state >> inode) {
            _by_inode[inode] = {.kind = type == "0001"   ? socket_kind::unix_stream
                                        : type == "0005" ? socket_kind::unix_seqpacket
                                                         : socket_kind::unix_other};
        }
    });
}

socket_facts socket_table::look_up(uint64_t inode) const {
    const auto at = _by_inode.find(inode);
    auto f = at == _by_inode.end() ? socket_facts{} : at->second;
    f.served_here = f.kind == socket_kind::tcp && !f.listening && f.local.port != 0 &&
                    _served_ports.contains(f.local.port);
    return f;
}

std::optional<uint64_t> socket_table::other_end(const socket_facts& of) const {
    for (const auto& [inode, f] : _by_inode) {
        if (f.kind == socket_kind::tcp && f.local.unmapped() == of.peer.unmapped() &&
            f.peer.unmapped() == of.local.unmapped()) {
            return inode;
        }
    }
    return std::nullopt;
}

std::optional<bool> has_mapped(pid_t pid, const std::string& file_name) {
    std::ifstream in(proc_path(pid, "maps"));
    if (!in) {
        return std::nullopt;
    }
    std::string line;
    bool read = false;
    while (std::getline(in, line)) {
        read = true;
        if (line.find("/" + file_name) != line.npos) {
            return true;
        }
    }
    return read ? std::optional(false) : std::nullopt;
}

std::optional<bool> was_secure_execution(pid_t pid) {
    std::ifstream in(proc_path(pid, "auxv"), std::ios::binary);
    for (Elf64_auxv_t entry; in.read(reinterpret_cast<char*>(&entry), sizeof entry);) {
        if (entry.a_type == AT_SECURE) {
            return entry.a_un.a_val != 0;
        }
    }
    return std::nullopt;
}

int status_number(pid_t pid, const std::string& name) {
    std::ifstream in(proc_path(pid, "status"));
    for (std::string line; std::getline(in, line);) {
        if (line.starts_with(name + ":")) {
            return int(strtol(line.c_str() + name.size() + 1, nullptr, 10));
        }
    }
    return 0;
}

std::vector<int> descriptors_of(pid_t pid) {
    std::vector<int> out;
    std::error_code ec;
    for (const auto& e : std::filesystem::directory_iterator(proc_path(pid, "fd"), ec)) {
        out.push_back(int(strtol(e.path().filename().c_str(), nullptr, 10)));
    }
    std::ranges::sort(out);
    return out;
}

bool has_descriptor(pid_t pid, const std::string& link) {
    return std::ranges::any_of(descriptors_of(pid), [&](int fd) {
        auto at = descriptor_link(pid, fd);
        return at && *at == link;
    });
}

base::result<environment> environment_of(pid_t pid) {
    std::ifstream in(proc_path(pid, "environ"), std::ios::binary);
    environment out;
    bool read = false;
    for (std::string entry; in && std::getline(in, entry, '\0');) {
        read = true;
        if (const auto sign = entry.find('='); sign != entry.npos) {
            out.emplace(entry.substr(0, sign), entry.substr(sign + 1));
        }
    }
    return read ? base::result<environment>(std::move(out)) : base::fail(EACCES, "cannot be read");
}

}  // namespace vmsgr::cli
