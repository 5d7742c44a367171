/* libvmsgr: a program's own connections through vmsgrd, without the preload library.
 *
 * A session attaches the process to vmsgrd; a stream is one TCP connection that vmsgrd carries. The program connects
 * or accepts the socket itself and hands it over; from then on its bytes go through shared memory.
 *
 *     vmsgr_session *session;
 *     vmsgr_stream *stream;
 *     vmsgr_error error;
 *     if (vmsgr_session_open(NULL, &session, &error) != 0 ||
 *         vmsgr_stream_open(session, socket, "backup", &stream, &error) != 0) {
 *         fprintf(stderr, "%s\n", error.text);
 *     }
 *
 * Results: 0 or a count; -1 with errno set, as system calls have it. The two calls that open something also fill
 * in a vmsgr_error, if they are given one, whose text names the cause and the next step.
 * Threads: every call may be made on any thread, also several on one object at once; only a close must be the last
 * call on its object. No call is async-signal-safe. No threads are started, no signal handlers installed.
 * fork: the child must not use sessions and streams of its parent, nor close them; it may exec (all descriptors
 * here are close-on-exec) or open a session of its own.
 * Linux only. ABI: stable for one SOVERSION; options structs may grow at their end, which is what `size` is for.
 */
#ifndef VMSGR_VMSGR_H
#define VMSGR_VMSGR_H

#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#define VMSGR_VERSION "0.1.0"
#define VMSGR_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef struct vmsgr_session vmsgr_session;
typedef struct vmsgr_stream vmsgr_stream;

/* Owned by the caller; written only by a call that fails. */
typedef struct vmsgr_error {
    int errnum;     /* an errno value, the same as in errno */
    char text[200]; /* one line without a line feed, cut short where it is longer; always ends in NUL */
} vmsgr_error;

typedef struct vmsgr_session_options {
    size_t size;             /* sizeof(struct vmsgr_session_options) */
    const char *socket_path; /* vmsgrd's; NULL: $VMSGR_SOCKET, or /run/vmsgr/vmsgrd.sock */
    const char *program;     /* name in vmsgrd's views, at most 31 characters; NULL: this program's own */
} vmsgr_session_options;

/* The version of the library that is loaded, which may differ from VMSGR_VERSION. Static. */
VMSGR_API const char *vmsgr_version(void);

/* Attaches to vmsgrd; takes at most 0.5 s. options may be NULL (all defaults) and is copied. On success *out is
 * the caller's, to be given to vmsgr_session_close(). When vmsgrd goes away and comes back, the session attaches
 * again with the next vmsgr_stream_open().
 *
 * EINVAL        options->size is none of this library's, unknown options are set, or a name is too long
 * ENAMETOOLONG  socket_path has more than 107 characters
 * ENOENT, ECONNREFUSED   no vmsgrd there                EACCES  no permission, or vmsgrd does not admit this user
 * EAGAIN        vmsgrd has as many sessions as it may   ETIMEDOUT  it does not answer
 * EPROTO        it is another version                   ENOMEM, EMFILE, ENFILE  as everywhere
 */
VMSGR_API int vmsgr_session_open(const vmsgr_session_options *options, vmsgr_session **out, vmsgr_error *error);

/* Streams opened in the session go on without it. NULL is ignored. errno is kept. */
VMSGR_API void vmsgr_session_close(vmsgr_session *session);

/* Hands an established TCP socket (IPv4 or IPv6) to vmsgrd; returns once vmsgrd has taken it, after at most 1.5 s.
 * The stream begins with O_NONBLOCK, SO_RCVTIMEO and SO_SNDTIMEO as the socket has them. Options of TCP are set on
 * the socket before this call. `name` is shown as the connection's route, at most 31 characters; NULL: "libvmsgr".
 *
 * On success the socket is vmsgrd's: its number is closed here, duplicates of it must not be used, and *out is
 * the caller's, to be given to vmsgr_stream_close(). On failure the number stays open and the caller's. With
 * EINVAL, EBADF, ENOTSOCK, ENOTCONN, ENOMEM, EMFILE, ENFILE, and whatever vmsgr_session_open() may fail with before
 * anything is sent, the connection is as it was. Once vmsgrd has seen it, it may be disconnected: close it, connect
 * anew.
 *
 * EINVAL      no TCP socket, or a name that is too long       ENOTCONN   not connected, or not yet
 * EACCES      a rule of vmsgrd's denies the address           EAGAIN, ENOBUFS   a limit of vmsgrd's
 * ECONNRESET  vmsgrd ended meanwhile                          ETIMEDOUT  vmsgrd has not taken it in time
 */
VMSGR_API int vmsgr_stream_open(vmsgr_session *session, int connected_tcp_socket, const char *name,
                                vmsgr_stream **out, vmsgr_error *error);

/* For poll, select and epoll, and for O_NONBLOCK, SO_RCVTIMEO and SO_SNDTIMEO: fcntl() and setsockopt() on it say
 * how the calls below wait. It is the stream's: never close it, and never read or write it directly (vmsgrd
 * would reset the connection). IN and OUT are promises to look, as with any socket: now and then a call says EAGAIN
 * after them. With EPOLLET go on until EAGAIN. */
VMSGR_API int vmsgr_stream_fd(const vmsgr_stream *stream);

/* As send(2) and recv(2) on a TCP socket, flags and errno included: MSG_DONTWAIT, MSG_NOSIGNAL, MSG_MORE, MSG_PEEK,
 * MSG_WAITALL, MSG_TRUNC; there is no out-of-band data. A send without MSG_NOSIGNAL raises SIGPIPE with EPIPE. What
 * was sent is in vmsgrd's hands. recv returns 0 at end of file. ECONNRESET also says that vmsgrd ended. */
VMSGR_API ssize_t vmsgr_stream_send(vmsgr_stream *stream, const void *data, size_t bytes, int flags);
VMSGR_API ssize_t vmsgr_stream_recv(vmsgr_stream *stream, void *buffer, size_t bytes, int flags);

/* The same for several pieces. EMSGSIZE: more than 1024; EINVAL: fewer than none. */
VMSGR_API ssize_t vmsgr_stream_sendv(vmsgr_stream *stream, const struct iovec *pieces, int count, int flags);
VMSGR_API ssize_t vmsgr_stream_recvv(vmsgr_stream *stream, const struct iovec *pieces, int count, int flags);

/* As shutdown(2). */
VMSGR_API int vmsgr_stream_shutdown(vmsgr_stream *stream, int how);

/* As getsockname(2) and getpeername(2): at most *length bytes are written, *length becomes the whole length. */
VMSGR_API int vmsgr_stream_local(const vmsgr_stream *stream, struct sockaddr *address, socklen_t *length);
VMSGR_API int vmsgr_stream_peer(const vmsgr_stream *stream, struct sockaddr *address, socklen_t *length);

/* As close(2) of a socket: what was sent still goes out, in vmsgrd, and this call does not wait for it. Take the
 * descriptor out of epoll sets before. NULL is ignored. errno is kept. */
VMSGR_API void vmsgr_stream_close(vmsgr_stream *stream);

#ifdef __cplusplus
}
#endif

#endif
