// The C API of include/vmsgr/vmsgr.h: libvmsgr.so. What each call promises stands there.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <new>
#include <string_view>

#include "base/keep_errno.hh"
#include "base/names.hh"
#include "base/sys.hh"
#include "client/channels/api.hh"
#include "client/hand_over.hh"
#include "client/failures.hh"
#include "client/streams/stream.hh"

namespace client = vmsgr::client;
namespace sys = vmsgr::sys;
using vmsgr::base::address;


struct vmsgr_stream {
    client::stream stream;
    vmsgr::base::unique_fd bell;
};

namespace vmsgr::client::api {

int fail(vmsgr_error* error, int errnum, const char* format, ...) noexcept {
    if (error != nullptr) {
        error->errnum = errnum;
        va_list ap;
        va_start(ap, format);
        vsnprintf(error->text, sizeof error->text, format, ap);
        va_end(ap);
    }
    errno = errnum;
    return -1;
}

int fail(vmsgr_error* error, const base::error& why) noexcept {
    return fail(error, why.errnum, "%s", why.text.c_str());
}

}  // namespace vmsgr::client::api

using namespace vmsgr::client::api;

namespace {

constexpr const char* default_name = "libvmsgr";
constexpr int pieces_max = 1024;  // the kernel's UIO_MAXIOV

using vmsgr::base::keep_errno;

bool bad_pieces(const iovec* pieces, int count) noexcept {
    if (count > pieces_max) {
        errno = EMSGSIZE;
        return true;
    }
    if (count < 0 || (count != 0 && pieces == nullptr)) {
        errno = EINVAL;
        return true;
    }
    return false;
}

}  // namespace

extern "C" {

const char* vmsgr_version(void) { return vmsgr::proto::version_text; }

int vmsgr_session_open(const vmsgr_session_options* given, vmsgr_session** out, vmsgr_error* error) {
    const int saved = errno;
    vmsgr_session_options options;
    if (out == nullptr) {
        return fail(error, EINVAL, "vmsgr_session_open: no place for the session (out is NULL)");
    }
    if (int e = read_options(given, options); e != 0) {
        return fail(error, e, "vmsgr_session_open: options->size %zu, or an option set that libvmsgr " VMSGR_VERSION
                    " does not know", given->size);
    }
    const char* path = options.socket_path;
    if (path == nullptr) {
        const char* named = ::getenv("VMSGR_SOCKET");
        path = named != nullptr && named[0] != 0 ? named : vmsgr::proto::default_socket;
    }
    if (strlen(path) >= sizeof(vmsgr_session::path)) {
        return fail(error, ENAMETOOLONG, "the path of a socket has at most %zu characters; this one has %zu",
                    sizeof(vmsgr_session::path) - 1, strlen(path));
    }
    if (options.program != nullptr && strlen(options.program) >= vmsgr::shm::name_bytes) {
        return fail(error, EINVAL, "the name of a program has at most %zu characters; this one has %zu",
                    size_t(vmsgr::shm::name_bytes) - 1, strlen(options.program));
    }
    return guarded(error, [&] {
        auto s = std::make_unique<vmsgr_session>();
        memcpy(s->path, path, strlen(path) + 1);
        s->session = {new client::session, [](client::session* last) {
                          last->forget();  // closes and unmaps
                          delete last;
                      }};
        s->session->configure(path, options.program != nullptr ? options.program : program_invocation_short_name);
        if (!s->session->ensure()) {
            return fail(error, client::unattached(path, s->session->last_failure()));
        }
        *out = s.release();
        errno = saved;
        return 0;
    });
}

void vmsgr_session_close(vmsgr_session* s) {
    const int saved = errno;
    delete s;
    errno = saved;
}

int vmsgr_stream_open(vmsgr_session* s, int socket, const char* name, vmsgr_stream** out, vmsgr_error* error) {
    const int saved = errno;
    if (s == nullptr || out == nullptr) {
        return fail(error, EINVAL, "vmsgr_stream_open: no session, or no place for the stream (NULL)");
    }
    if (name == nullptr) {
        name = default_name;
    }
    if (strlen(name) >= vmsgr::shm::name_bytes) {
        return fail(error, EINVAL, "the name of a stream has at most %zu characters; this one has %zu",
                    size_t(vmsgr::shm::name_bytes) - 1, strlen(name));
    }
    if (sys::fcntl(socket, F_GETFD) < 0) {
        return fail(error, EBADF, "descriptor %d is not open", socket);
    }
    if (vmsgr::base::socket_option(socket, SO_TYPE) < 0) {
        return fail(error, ENOTSOCK, "descriptor %d is no socket", socket);
    }
    if (vmsgr::base::socket_option(socket, SO_TYPE) != SOCK_STREAM ||
        vmsgr::base::socket_option(socket, SO_PROTOCOL) != IPPROTO_TCP) {
        return fail(error, EINVAL, "descriptor %d is no TCP socket (or is routed already, by vmsgr run)", socket);
    }
    const address peer = vmsgr::base::peer_name(socket);
    if (peer.family == 0) {
        return fail(error, ENOTCONN, "TCP socket %d is not connected: connect it first, and wait until it is", socket);
    }
    if (!s->session->ensure()) {
        return fail(error, client::unattached(s->path, s->session->last_failure()));
    }
    // To the daemon it is a connect that is still to be decided, so its answer comes before any data.
    client::conduit_end end;
    if (!client::make_conduit_end(*s->session, socket, peer, client::phase::connecting, end)) {
        const int e = errno;
        return fail(error, e, "no conduit for the connection: %s; see ulimit -n and the memory", strerror(e));
    }
    auto* stream = new (std::nothrow) vmsgr_stream{};
    if (stream == nullptr) {
        return fail(error, ENOMEM, "no memory for a stream");
    }
    if (!client::hand_over(*s->session, end, socket, end.bell.get(), peer, name)) {
        delete stream;
        return fail(error, EAGAIN, "vmsgrd at %s takes no job now (just ended, or its list is full): try again",
                    s->path);
    }
    end.other.reset();  // so that the daemon's is the last, and its end is seen
    if (int e = client::await_verdict(end.stream, end.bell.get()); e != 0) {
        // Whatever it still does with the connection, it is not to end it in our name.
        end.stream.flags().fetch_or(vmsgr::shm::end_recalled, std::memory_order_release);
        delete stream;
        return fail(error, client::untaken(e, peer));
    }
    bool retry = false;
    end.stream.connect_again(end.bell.get(), retry);  // told
    stream->stream = std::move(end.stream);
    stream->bell = std::move(end.bell);
    ::close(socket);  // libc's: a preload library knows numbers that were the program's
    *out = stream;
    errno = saved;
    return 0;
}

int vmsgr_stream_fd(const vmsgr_stream* s) { return s->bell.get(); }

ssize_t vmsgr_stream_send(vmsgr_stream* s, const void* data, size_t bytes, int flags) {
    iovec piece{const_cast<void*>(data), std::min<size_t>(bytes, SSIZE_MAX)};
    return keep_errno([&] { return s->stream.send(s->bell.get(), &piece, 1, flags); });
}

ssize_t vmsgr_stream_recv(vmsgr_stream* s, void* buffer, size_t bytes, int flags) {
    iovec piece{buffer, std::min<size_t>(bytes, SSIZE_MAX)};
    return keep_errno([&] { return s->stream.receive(s->bell.get(), &piece, 1, flags); });
}

ssize_t vmsgr_stream_sendv(vmsgr_stream* s, const iovec* pieces, int count, int flags) {
    return bad_pieces(pieces, count)
               ? -1
               : keep_errno([&] { return s->stream.send(s->bell.get(), pieces, size_t(count), flags); });
}

ssize_t vmsgr_stream_recvv(vmsgr_stream* s, const iovec* pieces, int count, int flags) {
    return bad_pieces(pieces, count)
               ? -1
               : keep_errno([&] { return s->stream.receive(s->bell.get(), pieces, size_t(count), flags); });
}

int vmsgr_stream_shutdown(vmsgr_stream* s, int how) {
    return int(keep_errno([&]() -> ssize_t { return s->stream.shutdown(s->bell.get(), how); }));
}

int vmsgr_stream_local(const vmsgr_stream* s, sockaddr* to, socklen_t* length) {
    return vmsgr::base::give_name(s->stream.page().local, to, length);
}

int vmsgr_stream_peer(const vmsgr_stream* s, sockaddr* to, socklen_t* length) {
    return vmsgr::base::give_name(s->stream.page().peer, to, length);
}

void vmsgr_stream_close(vmsgr_stream* s) {
    const int saved = errno;
    if (s != nullptr) {
        s->stream.close_last(s->bell.get(), false);
        s->bell.reset();
        s->stream.recycle();
    }
    delete s;
    errno = saved;
}

}  // extern "C"
