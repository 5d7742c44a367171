#include "cli/inquiry.hh"

#include <errno.h>

#include "base/source.hh"
#include "cli/decide.hh"
#include "cli/sock_diag.hh"
#include "conf/words.hh"
#include "proto/control.hh"

namespace vmsgr::cli {

namespace {

class inquiry {
    process_facts& _of;
    const pid_t _pid;
    int _fd;
    const json& _daemon;
    const std::string& _daemon_error;
    verdict _v;
    std::string _link;
    socket_facts _socket;
    bool _planned = false;  // asked of a connection that is not made yet

public:
    inquiry(process_facts& of, int fd, const listed_status& daemon, const std::string& daemon_error)
        : _of(of), _pid(of.pid), _fd(fd), _daemon(daemon.rest), _daemon_error(daemon_error) {}

    verdict answer_planned(const base::address& to) {
        if (!find_process() && !find_library()) {
            _socket.peer = to;
            _planned = true;
            fact("peer", base::to_string(to));
            find_route();
        }
        return finished();
    }

    verdict answer() {
        if (!find_process() && !find_descriptor() && !find_connection() && !find_kind() && !find_library() &&
            !find_route()) {
            conclude("unknown", "no rule is against it, but VMSGR does not know this descriptor");
        }
        return finished();
    }

private:
    verdict finished() {
        if (!_daemon_error.empty()) {
            fact("daemon", _daemon_error);
        }
        return std::move(_v);
    }
    bool conclude(std::string reason, std::string text, bool accelerated = false) {
        _v.reason = std::move(reason);
        _v.text = std::move(text);
        _v.accelerated = accelerated;
        return true;
    }
    bool missing(std::string reason, std::string text) {
        _v.found = false;
        return conclude(std::move(reason), std::move(text));
    }
    void fact(std::string name, std::string value) { _v.facts.emplace_back(std::move(name), std::move(value)); }
    bool daemon_known() const { return _daemon_error.empty(); }

    // Each step below is true when it has the answer.

    bool find_process() {
        if (!_of.exists) {
            return missing("process_gone", "there is no process " + std::to_string(_pid));
        }
        _v.program = _of.program;
        if (const json& session = _of.session(); !session.empty()) {
            fact("session", text_of(session, "id"));
        }
        return false;
    }

    bool find_descriptor() {
        auto link = descriptor_link(_pid, _fd);
        if (!link && link.error().errnum == ENOENT) {
            return missing("not_open", "descriptor " + std::to_string(_fd) + " is not open in it");
        }
        if (!link) {
            return missing("not_permitted", "/proc/" + std::to_string(_pid) + "/fd cannot be read (" +
                                                link.error().text + "); run as root or as its user");
        }
        _link = *link;
        fact("descriptor", _link);
        return false;
    }

    // The daemon knows the number at which a connection was made; a dup or a forked child has another number for
    // the same socket, which the inode shows.
    bool find_connection() {
        const auto inode = socket_inode(_link);
        if (const auto c = inode ? _of.connection_at(*inode) : std::nullopt) {
            return carried(*c);
        }
        if (const auto* l = _of.listener_at(_fd)) {
            return listens(*l);
        }
        return false;
    }

    bool listens(const json& l) {
        fact("listens on", text_of(l, "address"));
        return conclude("listener", "a listener that vmsgrd serves", true);
    }

    bool carried(const json& c) {
        _v.connection = c;
        fact("connection", text_of(c, "id") + " of session " + text_of(c, "session") + ", " + text_of(c, "state"));
        fact("local", text_of(c, "local"));
        fact("peer", text_of(c, "peer"));
        fact("route", text_of(c, "route"));
        fact("shard", text_of(c, "shard"));
        fact("bytes in, out", text_of(c, "bytes_in") + ", " + text_of(c, "bytes_out"));
        tell_probe(c);
        if (const json& stays = object_of(c, "stays"); !stays.empty()) {
            fact("drain", "it stays: " + text_of(stays, "why"));
        }
        if (const json& plain = object_of(c, "plain"); !plain.empty()) {
            return in_plain_mode(plain);
        }
        return conclude("carried",
                        "vmsgrd carries it, path " + text_of(c, "path") + ", route " + conf::quote(text_of(c, "route")),
                        true);
    }

    // The bytes go through the descriptor itself, by system calls.
    bool in_plain_mode(const json& plain) {
        fact("moved", plain.contains("moved") && plain["moved"] == true ? "yes, to another socket" : "no");
        _v.cause = text_of(plain, "cause");
        return conclude("plain_mode", "in plain mode (the kernel carries each byte): " + text_of(plain, "why"));
    }

    // A program without the library that was given a connection in plain mode: the daemon knows that of the giver,
    // which may have closed its own. The other end of this unix socket tells which it is.
    bool find_alien(uint64_t inode) {
        const auto peer = peer_of_unix_socket(inode);
        if (const auto c = peer ? _of.plain_by_bell(*peer) : std::nullopt) {
            fact("given by", "process " + text_of(*c, "pid"));
            return carried(*c);
        }
        const auto other_end = peer ? _of.connection_at(*peer) : std::nullopt;
        return other_end && !_of.has_library.value_or(false) && given_from_beyond(*other_end);
    }

    // The giver of this end has closed it; `c` is the other end of the local connection.
    bool given_from_beyond(const json& c) {
        fact("other end", "process " + text_of(c, "pid"));
        json own = c;
        std::swap(own["local"], own["peer"]);
        own["role"] = text_of(c, "role") == "client" ? "server" : "client";
        if (object_of(c, "plain").empty()) {
            const char* const why = "its giver has closed it, and the other end has not noticed yet";
            own["plain"] = {{"cause", nullptr}, {"why", why}};
        }
        return carried(own);
    }

    // Why it went direct, or over whom: what a probe of its peer's daemon has found.
    void tell_probe(const json& c) {
        for (const auto* t : _of.probes_of(c)) {
            const std::string state = text_of(*t, "state"), where = text_of(*t, "address");
            fact("trunk", state == "absent"    ? "no daemon answers at " + where + ", or it refuses; asked again later"
                          : state == "probing" ? "a daemon at " + where + " is being asked"
                                               : "to the daemon at " + where + ", " + state);
        }
    }

    bool find_kind() {
        auto inode = socket_inode(_link);
        if (!inode) {
            return conclude("not_a_socket", "it is not a socket, but " + _link);
        }
        _socket = _of.sockets().look_up(*inode);
        switch (_socket.kind) {
        case socket_kind::tcp:
            fact("local", base::to_string(_socket.local));
            fact("peer", _socket.listening ? "none, it listens" : base::to_string(_socket.peer));
            return false;
        case socket_kind::udp: return conclude("not_tcp", "it is a UDP socket; VMSGR carries TCP");
        case socket_kind::unix_stream:
        case socket_kind::unix_seqpacket: return find_alien(*inode) || unix_socket();
        case socket_kind::unix_other: return conclude("not_tcp", "it is a unix datagram socket; VMSGR carries TCP");
        case socket_kind::other:
            return conclude("not_tcp", "it is neither a TCP socket that is bound or connected, nor one of VMSGR's");
        }
        return false;
    }

    bool unix_socket() {
        const bool loaded = _of.has_library.value_or(false);
        if (loaded && !daemon_known()) {
            return conclude("unix_socket_daemon_unknown",
                            "it is a unix socket, perhaps a doorbell of VMSGR; only vmsgrd can tell");
        }
        // A listener's doorbell: the status names its session, not its number.
        const auto* const l = _of.any_listener();
        if (loaded && _socket.kind == socket_kind::unix_seqpacket && l != nullptr) {
            return listens(*l);
        }
        return conclude("not_tcp", "it is a unix socket that is no connection of vmsgrd; VMSGR carries TCP");
    }

    bool find_library() {
        const auto& [reason, text] = _of.without_library();
        return !reason.empty() && conclude(reason, text);
    }

    // The route would carry it. What of the program itself is against that.
    bool find_own_fault() {
        const auto& [cause, why] = _of.own_fault();
        if (cause.empty()) {
            return false;
        }
        _v.cause = cause;
        return conclude("left_to_kernel", "the program's connections are the kernel's: " + why);
    }

    bool find_route() {
        proto::route_table routes;
        const auto* const text = _of.variable("VMSGR_ROUTES");
        if (text == nullptr && _of.variable("LD_PRELOAD") != nullptr) {
            return conclude("no_routes", "the library is loaded, but the process has no routes; start it with "
                                         "'vmsgr run -- ...'");
        }
        if (text == nullptr) {
            return conclude("environment_lost", "the process has overwritten its environment, so its routes cannot "
                                                "be read; try 'vmsgr routes test'");
        }
        if (!proto::parse_routes(*text, routes)) {
            return conclude("routes_not_understood", "the routes in its environment are of another version");
        }
        fact("routes", std::to_string(routes.count) + " in its environment");
        const bool server = !_planned && (_socket.listening || _socket.served_here);
        asked a{_v.program, server ? proto::role::server : proto::role::client, server ? _socket.local : _socket.peer,
                false};
        fact("role", std::string(proto::to_text(a.who)));
        return judge(routes, a);
    }

    bool judge(const proto::route_table& routes, const asked& a) {
        const auto* rule = routes.match(_v.program, a.who, a.where);
        auto where = base::to_string(a.where);
        if (rule == nullptr) {
            return no_rule(routes, a, where);
        }
        auto name = conf::quote(rule->name_text());
        fact("route", std::string(rule->name_text()));
        if (rule->way == proto::via::posix) {
            return conclude("route_says_posix", "route " + name + " keeps " + where + " on POSIX");
        }
        if (rule->way == proto::via::deny) {
            return conclude("route_says_deny",
                            "route " + name + " denies " + where +
                                (_planned ? "" : "; this socket was made before or without the library"));
        }
        const base::address& other = _planned ? a.where : _socket.peer;
        if (rule->way == proto::via::local && !_socket.listening && !base::is_this_host(other) && !is_listened(other)) {
            return conclude("other_host", "route " + name + " carries what stays on this host (via: local), and " +
                                              base::to_string(other) + " is no address of it");
        }
        if (find_own_fault()) {
            return true;
        }
        if (_planned) {
            return plan(*rule);
        }
        if (is_drained()) {
            return conclude("drained", "route " + name +
                                           " would carry it, but vmsgrd is being drained: what is new is "
                                           "the kernel's, and what it carried has gone back");
        }
        const auto* const socket = _of.variable("VMSGR_SOCKET");
        if (rule->way == proto::via::local && !_socket.listening && daemon_known()) {
            return conclude("peer_not_attached", "route " + name +
                                                     " carries it where both ends are programs of this daemon "
                                                     "(via: local); the peer is none, or did not take it");
        }
        return conclude("fell_back",
                        "route " + name + " would carry it, but vmsgrd at " +
                            (socket != nullptr ? *socket : proto::default_socket) +
                            " was not there, or refused, when it was made, or has given it back since (vmsgr drain)" +
                            (_of.filters_calls ? ", or the program had set a seccomp filter before" : "") +
                            (rule->way == proto::via::local && _socket.listening
                                 ? ", or it defers accepting (TCP_DEFER_ACCEPT), which by via: local is left to TCP"
                                 : ""));
    }

    // By a program of the daemon, whatever network namespace it is in.
    bool is_listened(const base::address& a) const {
        return std::ranges::any_of(_daemon.value("listeners", json::array()),
                                   [&](const json& l) { return text_of(l, "address") == base::to_string(a); });
    }

    bool is_drained() const { return object_of(_daemon, "drain").value("on", false); }

    bool plan(const proto::route& rule) {
        const auto name = conf::quote(rule.name_text());
        if (!daemon_known() || is_drained()) {
            return conclude(rule.without_daemon == proto::fallback::fail ? "would_fail" : "would_fall_back",
                            "route " + name + " would carry it, but vmsgrd is " +
                                (daemon_known() ? "being drained (vmsgr drain)" : "not there"));
        }
        return conclude("would_be_carried",
                        "it would be carried, path " + std::string(proto::to_text(rule.way)) + ", route " + name +
                            (rule.local ? "; memory to memory if a program of this daemon listens there" : "") +
                            (rule.way == proto::via::local ? ", else TCP" : ""),
                        true);
    }

    bool no_rule(const proto::route_table& routes, const asked& a, const std::string& where) {
        bool other_program = routes.count != 0;
        for (const auto& r : routes) {
            fact("route " + conf::quote(r.name_text()), "does not match: " + mismatch(r, a));
            other_program = other_program && !r.matches_program(_v.program);
        }
        if (other_program) {
            return conclude("program_not_routed", "no route is for a program named " + conf::quote(_v.program));
        }
        return conclude("no_route", "no route matches " + where + " as " + std::string(proto::to_text(a.who)) +
                                        ", so it stays on POSIX");
    }
};

}  // namespace

verdict inquire_planned(pid_t pid, const base::address& to, const listed_status& daemon,
                        const std::string& daemon_error) {
    process_facts of(pid, daemon);
    return inquiry(of, -1, daemon, daemon_error).answer_planned(to);
}

verdict inquire(process_facts& of, int fd, const listed_status& daemon, const std::string& daemon_error) {
    return inquiry(of, fd, daemon, daemon_error).answer();
}

}  // namespace vmsgr::cli
