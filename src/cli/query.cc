#include "cli/query.hh"

#include <errno.h>
#include <grp.h>
#include <string.h>
#include <sys/stat.h>

#include <cstdio>
#include <memory>

#include "base/clock.hh"
#include "conf/words.hh"
#include "proto/control_client.hh"

namespace vmsgr::cli {

namespace {

base::error silent(const std::string& path) {
    return {ETIMEDOUT, "vmsgrd at " + path + " does not answer within " + std::to_string(query_timeout_ms / 1000) +
                           " s (stopped or overloaded?); look at its log, or at its state with ps"};
}

base::error gone(const std::string& path) {
    return {ECONNRESET, "vmsgrd at " + path + " closed the connection without an answer; its log says why"};
}

base::error odd(const std::string& path, const std::string& what) {
    return {EPROTO, "vmsgrd at " + path + " answered " + what + "; is it another version than this vmsgr " +
                        proto::version_text + "?"};
}

std::string who_may(const std::string& path) {
    struct stat st;
    if (::stat(path.c_str(), &st) != 0) {
        return "you have no permission to enter its directory";
    }
    char mode[8];
    snprintf(mode, sizeof mode, "%04o", unsigned(st.st_mode & 07777));
    const ::group* g = ::getgrgid(st.st_gid);
    return std::string("mode ") + mode + ", group " + (g != nullptr ? g->gr_name : std::to_string(st.st_gid));
}

bool is_socket(const std::string& path) {
    struct stat st;
    return ::stat(path.c_str(), &st) == 0 && S_ISSOCK(st.st_mode);
}

base::error connect_error(const std::string& path, int e) {
    switch (e) {
    case ENOENT:
    case ENOTDIR:
        return {e, "no vmsgrd at " + path + "; start one with 'vmsgrd --config FILE' or name its socket with --socket"};
    case ECONNREFUSED:
        if (!is_socket(path)) {
            return {e, path + " is not a socket; name vmsgrd's with --socket"};
        }
        return {e, "no vmsgrd behind " + path +
                       ", the socket was left by one that ended; start it again with 'vmsgrd --config FILE'"};
    case EACCES:
    case EPERM:
        return {e, "no permission for " + path + " (" + who_may(path) +
                       "); join that group, or run as a user whom the daemon's 'access' lets in"};
    case EPROTOTYPE:
    case ENOTSOCK: return {e, path + " is not vmsgrd's control socket; name the right one with --socket"};
    case ENAMETOOLONG:
        return {e, "the path of a socket has at most 107 characters; this one has " + std::to_string(path.size())};
    default: return {e, "cannot connect to " + path + ": " + strerror(e)};
    }
}

base::error unanswered(const std::string& path, int e) {
    switch (e) {
    case ETIMEDOUT:
    case EAGAIN: return silent(path);
    case ECONNRESET:
    case EPIPE: return gone(path);
    default: return {e, "reading from " + path + ": " + strerror(e)};
    }
}

base::error unattached(const std::string& path, const proto::attach_failure& f) {
    using step = proto::attach_failure::step;
    switch (f.at) {
    case step::local: return {f.errnum, std::string("socket: ") + strerror(f.errnum)};
    case step::reach: return f.errnum == EAGAIN ? silent(path) : connect_error(path, f.errnum);
    case step::answer: return unanswered(path, f.errnum);
    case step::nonsense:
        return odd(path, f.welcome_bytes == 0 ? "no welcome"
                                              : "with a welcome of " + std::to_string(f.welcome_bytes) + " bytes");
    case step::version:
        return {EPROTO, "vmsgrd at " + path + " speaks version " + std::to_string(f.version) +
                            " of the control protocol, this vmsgr speaks " + std::to_string(proto::control_version) +
                            "; install both from one release"};
    case step::refused: break;
    }
    return {f.errnum,
            "vmsgrd at " + path + " refused: " + (f.text[0] != 0 ? conf::one_line(f.text) : strerror(f.errnum))};
}

}  // namespace

base::result<std::string> ask_daemon(const std::string& path, proto::kind what, uint32_t flags) {
    const auto a = proto::attach(path.c_str(), {.session = proto::session_kind::query,
                                                .program = "vmsgr",
                                                .answer_ms = query_timeout_ms,
                                                .backlog_ms = query_timeout_ms});
    if (!a) {
        return std::unexpected(unattached(path, a.error()));
    }
    proto::request_msg request;
    request.what = what;
    request.serial = 1;
    request.flags = flags;
    if (int e = proto::send_request(a->socket.get(), request, {}); e != 0) {
        return std::unexpected(unanswered(path, e));
    }
    const auto piece = std::make_unique<proto::document_piece>();
    for (std::string document;;) {
        const base::deadline until(query_timeout_ms);
        if (int e = proto::receive_piece(a->socket.get(), request.serial, until, *piece); e != 0) {
            return std::unexpected(e == EPROTO ? odd(path, "no reply to a question") : unanswered(path, e));
        }
        if (const int status = piece->head.status; status != 0) {
            return base::fail(status, "vmsgrd at " + path + " could not answer: " + strerror(status));
        }
        if (piece->content().empty()) {
            return document;
        }
        if (document.size() + piece->content().size() > document_bytes_max) {
            return std::unexpected(
                odd(path, "with a document of more than " + std::to_string(document_bytes_max) + " bytes"));
        }
        document += piece->content();
    }
}

base::result<proto::route_table> ask_routes(const std::string& path) {
    auto text = ask_daemon(path, proto::kind::routes);
    if (!text) {
        return std::unexpected(text.error());
    }
    while (!text->empty() && (text->back() == '\n' || text->back() == 0)) {
        text->pop_back();
    }
    proto::route_table t;
    if (!proto::parse_routes(*text, t)) {
        return std::unexpected(odd(path, "with routes that cannot be read"));
    }
    return t;
}

}  // namespace vmsgr::cli
