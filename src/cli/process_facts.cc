#include "cli/process_facts.hh"

#include <charconv>

#include "base/program_file.hh"
#include "cli/json_text.hh"
#include "cli/program.hh"
#include "proto/plain_cause.hh"

namespace vmsgr::cli {

namespace {

// The daemon's entry of a process; empty: none.
const json& session_of(const json& daemon, pid_t pid) {
    static const json none = json::object();
    const json* last = &none;
    for (const auto& s : list_of(daemon, "sessions")) {
        if (number_of(s, "pid") == uint64_t(pid)) {
            last = &s;
        }
    }
    return *last;
}

std::optional<json> found(const std::unordered_map<uint64_t, std::string_view>& in, uint64_t inode) {
    const auto at = in.find(inode);
    return at == in.end() ? std::nullopt : std::optional(json::parse(at->second, nullptr, false));
}

// -1: there is none.
int64_t number_in(std::string_view object, std::string_view key) {
    int64_t n = -1;
    const auto text = member_of(object, key);
    std::from_chars(text.data(), text.data() + text.size(), n);
    return n;
}

// Of an entry's address and shard, whatever the port; empty where it has none.
std::string probe_key(const json& entry, const char* address) {
    auto a = base::parse_address(text_of(entry, address));
    if (!a) {
        return {};
    }
    a = a->unmapped();
    a->port = 0;
    return base::to_string(*a) + " " + text_of(entry, "shard");
}

reason_and_text find_why_without_library(const process_facts& of) {
    if (of.has_library.value_or(false)) {
        return {};
    }
    if (!of.has_library) {
        return {"not_permitted", "what the process has loaded cannot be read; run as root or as its user"};
    }
    const std::string cannot = "the library cannot be loaded into " + of.program + ": ";
    if (was_secure_execution(of.pid).value_or(false)) {
        return {"cannot_be_preloaded",
                cannot + "it was started with rights that its user has not (setuid, setgid, capabilities)"};
    }
    if (const auto why = preload_obstacle(executable_of(of.pid)); !why.empty()) {
        return {"cannot_be_preloaded", cannot + why};
    }
    const pid_t parent = status_number(of.pid, "PPid");
    if (of.variable("LD_PRELOAD") == nullptr && has_mapped(parent, preload_library).value_or(false)) {
        return {"environment_cleared", std::string(preload_library) + " is not loaded: process " +
                                           std::to_string(parent) +
                                           ", which has it, started this one with "
                                           "an environment that has no LD_PRELOAD"};
    }
    return {"library_not_loaded",
            std::string(preload_library) + " is not loaded; start the program with 'vmsgr run -- ...'"};
}

reason_and_text find_own_fault(const process_facts& of) {
    if (const json& left = object_of(of.session(), "left_to_kernel"); !left.empty()) {
        return {text_of(left, "cause"), text_of(left, "why")};
    }
    using proto::plain_cause;
    if (has_descriptor(of.pid, "anon_inode:[io_uring]")) {
        return {std::string(proto::to_word(plain_cause::io_uring)), std::string(proto::to_text(plain_cause::io_uring))};
    }
    if (base::look_at_program(executable_of(of.pid).c_str()).obstacle == base::preload_obstacle::go) {
        return {"go", std::string(base::to_text(base::preload_obstacle::go))};
    }
    return {};
}

}  // namespace

process_facts::process_facts(pid_t process, const listed_status& daemon)
    : _session(session_of(daemon.rest, process)),
      pid(process),
      exists(process_exists(process)),
      program(_session.empty() ? program_of(process) : text_of(_session, "program")),
      has_library(has_mapped(process, preload_library)),
      started_with(environment_of(process)),
      filters_calls(status_number(process, "Seccomp") != 0) {
    // The daemon knows the number at which a connection was made; a dup or a forked child has another number for the
    // same socket, which the link shows.
    for (const auto c : daemon.connections) {
        // Its fd is -1 before it is accepted.
        if (const auto inode = socket_at(pid_t(number_in(c, "pid")), int(number_in(c, "fd")))) {
            _by_inode.emplace(*inode, c);
        }
        if (const auto plain = member_of(c, "plain"); plain.starts_with('{')) {
            _by_bell.emplace(uint64_t(number_in(plain, "bell_inode")), c);
        }
    }
    for (const auto& t : list_of(daemon.rest, "trunks")) {
        if (t.contains("learnt") && t["learnt"] == true) {
            _learnt[probe_key(t, "address")].push_back(&t);
        }
    }
    for (const auto& l : list_of(daemon.rest, "listeners")) {
        if (l.contains("fd") && pid_t(number_of(l, "pid")) == pid) {
            _listeners.emplace(int(number_of(l, "fd")), &l);
        }
        if (_any_listener == nullptr && pid_t(number_of(l, "pid")) == pid) {
            _any_listener = &l;
        }
    }
}

std::optional<json> process_facts::connection_at(uint64_t inode) const { return found(_by_inode, inode); }

std::optional<json> process_facts::plain_by_bell(uint64_t inode) const { return found(_by_bell, inode); }

std::vector<const json*> process_facts::probes_of(const json& connection) const {
    const auto key = probe_key(connection, "peer");
    const auto at = key.empty() ? _learnt.end() : _learnt.find(key);
    return at == _learnt.end() ? std::vector<const json*>() : at->second;
}

const json* process_facts::listener_at(int fd) const {
    const auto at = _listeners.find(fd);
    return at == _listeners.end() ? nullptr : at->second;
}

const std::string* process_facts::variable(const std::string& name) const {
    if (!started_with) {
        return nullptr;
    }
    const auto at = started_with->find(name);
    return at == started_with->end() ? nullptr : &at->second;
}

const socket_table& process_facts::sockets() {
    if (!_sockets) {
        _sockets.emplace(pid);
    }
    return *_sockets;
}

const reason_and_text& process_facts::without_library() {
    if (!_library) {
        _library = find_why_without_library(*this);
    }
    return *_library;
}

const reason_and_text& process_facts::own_fault() {
    if (!_own_fault) {
        _own_fault = find_own_fault(*this);
    }
    return *_own_fault;
}

}  // namespace vmsgr::cli
