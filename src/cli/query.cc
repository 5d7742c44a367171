#include "cli/query.hh"

#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>

#include "base/sys.hh"
#include "conf/words.hh"

namespace vmsgr::cli {

namespace {

using proto::control_version;

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

// A full backlog is EAGAIN on unix sockets, and nothing announces its end: look again for a while.
int connect_within(int fd, const sockaddr_un& un, uint32_t len) {
    auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(query_timeout_ms);
    while (sys::connect(fd, &un, len) != 0) {
        if (errno != EAGAIN && errno != EINTR) {
            return errno;
        }
        if (std::chrono::steady_clock::now() >= end) {
            return EAGAIN;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return 0;
}

base::result<std::string> read_document(int fd, size_t bytes, const std::string& path) {
    if (bytes > document_bytes_max) {
        return std::unexpected(odd(path, "with a document of " + std::to_string(bytes) + " bytes"));
    }
    std::string text(bytes, 0);
    for (size_t at = 0; at < bytes;) {
        ssize_t n = ::pread(fd, text.data() + at, bytes - at, off_t(at));
        if (n <= 0) {
            return std::unexpected(odd(path, "with a document shorter than it says"));
        }
        at += size_t(n);
    }
    return text;
}

}  // namespace

base::result<proto::received> query::receive(void* msg, size_t bytes) {
    pollfd p{_socket.get(), POLLIN, 0};
    int r = sys::poll(&p, 1, query_timeout_ms);
    if (r == 0) {
        return std::unexpected(silent(_path));
    }
    proto::received in;
    int e = r < 0 ? errno : proto::receive_with_fds(_socket.get(), msg, bytes, MSG_DONTWAIT, in);
    if (e == ECONNRESET || (e == 0 && in.bytes == 0)) {
        return std::unexpected(gone(_path));
    }
    if (e != 0) {
        return base::fail(e, "reading from " + _path + ": " + strerror(e));
    }
    return in;
}

base::result<bool> query::greet() {
    proto::hello_msg hello;
    hello.session = proto::session_kind::query;
    strncpy(hello.program, "vmsgr", sizeof hello.program - 1);
    if (int e = proto::send_with_fds(_socket.get(), &hello, sizeof hello, {}, MSG_DONTWAIT); e != 0) {
        return std::unexpected(e == EAGAIN ? silent(_path) : gone(_path));
    }
    proto::welcome_msg w;
    auto in = receive(&w, sizeof w);
    if (!in) {
        return std::unexpected(in.error());
    }
    if (in->bytes < 8 || w.magic != proto::control_magic || w.what != proto::kind::welcome) {
        return std::unexpected(odd(_path, "no welcome"));
    }
    w.text[sizeof w.text - 1] = 0;
    if (w.version != control_version) {
        return base::fail(EPROTO, "vmsgrd at " + _path + " speaks version " + std::to_string(w.version) +
                                      " of the control protocol, this vmsgr speaks " + std::to_string(control_version) +
                                      "; install both from one release");
    }
    if (in->bytes != sizeof w) {
        return std::unexpected(odd(_path, "with a welcome of " + std::to_string(in->bytes) + " bytes"));
    }
    if (w.status != 0) {
        std::string why = w.text[0] != 0 ? conf::one_line(w.text) : std::string(strerror(w.status));
        return base::fail(w.status, "vmsgrd at " + _path + " refused: " + why);
    }
    return true;
}

base::result<query> query::attach(const std::string& path) {
    sockaddr_un un;
    uint32_t len = 0;
    if (int e = proto::unix_address(path.c_str(), &un, len); e != 0) {
        return std::unexpected(connect_error(path, e));
    }
    base::unique_fd fd(sys::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) {
        return std::unexpected(base::os_error("socket"));
    }
    if (int e = connect_within(fd.get(), un, len); e != 0) {
        return std::unexpected(e == EAGAIN ? silent(path) : connect_error(path, e));
    }
    query q(std::move(fd), path);
    if (auto greeted = q.greet(); !greeted) {
        return std::unexpected(greeted.error());
    }
    return q;
}

base::result<std::string> query::ask(proto::kind what) {
    proto::request_msg request;
    request.what = what;
    request.serial = 1;
    if (int e = proto::send_with_fds(_socket.get(), &request, sizeof request, {}, MSG_DONTWAIT); e != 0) {
        return std::unexpected(e == EAGAIN ? silent(_path) : gone(_path));
    }
    proto::reply_msg reply;
    auto in = receive(&reply, sizeof reply);
    if (!in) {
        return std::unexpected(in.error());
    }
    if (in->bytes != sizeof reply || reply.magic != proto::control_magic || reply.what != proto::kind::reply ||
        reply.serial != request.serial) {
        return std::unexpected(odd(_path, "no reply to a question"));
    }
    if (reply.status != 0) {
        return base::fail(reply.status, "vmsgrd at " + _path + " could not answer: " + strerror(reply.status));
    }
    if (in->fd_count != 1) {
        return std::unexpected(odd(_path, "without a document"));
    }
    return read_document(in->fds[0].get(), reply.bytes, _path);
}

base::result<std::string> ask_daemon(const std::string& path, proto::kind what) {
    auto q = query::attach(path);
    return q ? q->ask(what) : std::unexpected(q.error());
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
