/* libvmsgr: a program's own connections through vmsgrd, without the preload library.
 *
 * A session attaches the process to vmsgrd. A stream is one TCP connection that vmsgrd carries: the program connects
 * or accepts the socket itself and hands it over; from then on its bytes go through shared memory. A channel carries
 * messages: in order, each exactly once, with their boundaries, between two programs that use this library. Two
 * programs of one vmsgrd share its memory, and vmsgrd has no part in it; others meet over the network.
 *
 *     vmsgr_session *session;
 *     vmsgr_stream *stream;
 *     vmsgr_error error;
 *     if (vmsgr_session_open(NULL, &session, &error) != 0 ||
 *         vmsgr_stream_open(session, socket, "backup", &stream, &error) != 0) {
 *         fprintf(stderr, "%s\n", error.text);
 *     }
 *
 * Results: 0 or a count; -1 with errno set, as system calls have it. Calls that take a
 * vmsgr_error also fill it in, unless it is NULL; its text names the cause and the next step.
 * Threads: calls on sessions and streams may be made on any thread, also several on one object at once; only a close
 * must be the last call on its object. Channels and their listeners have rules of their own, see below. No call is
 * async-signal-safe. The library starts no threads and installs no signal handlers.
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

#include <vmsgr/version.h>

#define VMSGR_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef struct vmsgr_session vmsgr_session;
typedef struct vmsgr_stream vmsgr_stream;
typedef struct vmsgr_channel vmsgr_channel;
typedef struct vmsgr_listener vmsgr_listener;

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
 * EINVAL        options->size is not one that this library knows, unknown options are set, or a name is too long
 * ENAMETOOLONG  socket_path has more than 107 characters
 * ENOENT, ECONNREFUSED   no vmsgrd there                EACCES  no permission, or vmsgrd does not admit this user
 * EAGAIN        vmsgrd has as many sessions as it may   ETIMEDOUT  it does not answer
 * EPROTO        it is another version                   ENOMEM, EMFILE, ENFILE  as everywhere
 */
VMSGR_API int vmsgr_session_open(const vmsgr_session_options *options, vmsgr_session **out, vmsgr_error *error);

/* Streams, channels and listeners opened in the session go on without it; with the last channel or listener the process
 * leaves vmsgrd. NULL is ignored. errno is kept. */
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

/* --- message channels -------------------------------------------------------------------------------------------
 *
 * Threads: one thread may send on a channel while another receives on it, without a lock; more than one on either side
 * need a lock of the program's. A listener is used by one thread at a time. Different channels and listeners are
 * independent. Each call below says to which side it belongs.
 *
 * timeout_ms, everywhere: < 0 waits for ever, 0 not at all (EAGAIN), else ETIMEDOUT after that many milliseconds. A
 * signal handler ends a wait with EINTR. Before it sleeps, a call looks at memory for options.spin_us.
 *
 * Descriptors: wait for one in poll or epoll only after a call with timeout_ms 0 has said EAGAIN; that call arms it.
 * Then IN says that there may be a message (or an end), OUT that there may be room. Never read, write or close it.
 *
 * Errors of a channel: after ENODATA, EPIPE, ECONNRESET, EPROTO or EPROTONOSUPPORT it is over (that direction of it
 * for ENODATA and EPIPE); vmsgr_channel_why() tells the cause. EAGAIN, ETIMEDOUT, EINTR, EMSGSIZE, EBUSY and EINVAL
 * change nothing.
 *
 * A message is in the ring of its receiver, or on its way, once a send has returned; with VMSGR_MORE once one without it,
 * a flush, or any call of the sending side that waits has. Messages that the other end has not received when it closes are
 * lost; who must know finishes sending, and waits for ENODATA.
 */
typedef struct vmsgr_channel_options {
    size_t size;              /* sizeof(struct vmsgr_channel_options) */
    size_t max_message_bytes; /* largest message to send and to take, 1024 up to half of vmsgrd's ring less 16 (524,272
                               * as shipped); 0: 65536, or that. To send, the smaller one of both ends counts. */
    int timeout_ms;           /* of vmsgr_channel_connect; 0: 5000 */
    int spin_us;              /* 0: $VMSGR_SPIN_US, or 20; -1: never look; at most 1000 */
    const char *name;         /* shown as the connection's route, at most 31 characters; NULL: "libvmsgr" */
} vmsgr_channel_options;

/* Listens for channels on an IPv4 or IPv6 address (port 0: the kernel chooses). options may be NULL; they hold for what
 * is accepted. EADDRINUSE, EACCES, EADDRNOTAVAIL as bind(2), EACCES also where a rule of vmsgrd's denies the address;
 * otherwise as vmsgr_session_open(). While vmsgrd is away the port stays open, and accept goes on when it is back. */
VMSGR_API int vmsgr_channel_listen(vmsgr_session *session, const struct sockaddr *address, socklen_t length,
                                   const vmsgr_channel_options *options, vmsgr_listener **out, vmsgr_error *error);
/* Connects to such a listener; returns once it has accepted. The way there is that of vmsgrd's routes: memory where the
 * listener is a program of the same vmsgrd, else TCP, or a trunk.
 *
 * ECONNREFUSED  nobody listens there          ETIMEDOUT   not accepted in time
 * EPROTO        it is no channel's listener   EPROTONOSUPPORT   it speaks another version of channels
 * EACCES, EAGAIN, ENOBUFS, ECONNRESET   as vmsgr_stream_open()   EINVAL   an option, or more than rings can take
 */
VMSGR_API int vmsgr_channel_connect(vmsgr_session *session, const struct sockaddr *address, socklen_t length,
                                    const vmsgr_channel_options *options, vmsgr_channel **out, vmsgr_error *error);

/* The next channel whose program has said hello. What says something else, or nothing for 30 s (or until 64 others have
 * come), is refused and counted. EACCES: vmsgrd came back with a rule that denies this listener. */
VMSGR_API int vmsgr_listener_accept(vmsgr_listener *listener, int timeout_ms, vmsgr_channel **out, vmsgr_error *error);
/* Readable when accept may have something to do. */
VMSGR_API int vmsgr_listener_fd(const vmsgr_listener *listener);
/* As getsockname(2). */
VMSGR_API int vmsgr_listener_address(const vmsgr_listener *listener, struct sockaddr *address, socklen_t *length);
/* How many were accepted and refused; why the last one was refused ("": none was). The text ends with the next accept. */
VMSGR_API int vmsgr_listener_counts(const vmsgr_listener *listener, unsigned long long *accepted,
                                    unsigned long long *refused, const char **last_refusal);
VMSGR_API void vmsgr_listener_close(vmsgr_listener *listener);

/* Flags of sending. */
#define VMSGR_MORE 1 /* more follows soon: this message may wait for it, which makes small ones cheaper */

/* Sends one message, of 0 bytes up to vmsgr_channel_max(). EMSGSIZE: longer. EPIPE: finished, or the other end has
 * closed. [sending side] */
VMSGR_API int vmsgr_channel_send(vmsgr_channel *channel, const void *data, size_t bytes, int flags, int timeout_ms);
/* Sends what VMSGR_MORE has held back. [sending side] */
VMSGR_API int vmsgr_channel_flush(vmsgr_channel *channel);
/* In place: *place is memory for a message of up to `bytes`, aligned to 8; commit sends the first `bytes` of it. One at a
 * time; a second reserve forgets the first. [sending side] */
VMSGR_API int vmsgr_channel_reserve(vmsgr_channel *channel, size_t bytes, int timeout_ms, void **place);
VMSGR_API int vmsgr_channel_commit(vmsgr_channel *channel, size_t bytes, int flags);
/* No message follows; the other end gets ENODATA after the last one. Receiving goes on. [sending side] */
VMSGR_API int vmsgr_channel_finish(vmsgr_channel *channel);

/* Receives one message; its length, which may be 0. EMSGSIZE: it is longer than the buffer, and stays. ENODATA: the other
 * end has finished, and all was received. ECONNRESET: it is gone without that. [receiving side] */
VMSGR_API ssize_t vmsgr_channel_recv(vmsgr_channel *channel, void *buffer, size_t bytes, int timeout_ms);
/* In place: *message is the next message, aligned to 8, until release; peek again gives the same one. The memory is the
 * sender's too: copy what must not change between a check and its use. [receiving side] */
VMSGR_API ssize_t vmsgr_channel_peek(vmsgr_channel *channel, const void **message, int timeout_ms);
VMSGR_API int vmsgr_channel_release(vmsgr_channel *channel);

/* Requests: sends and receives that go on while the program does something else, in the order in which they were made.
 * A request and its data belong to the library until it is done; the struct is the caller's memory, its fields are not.
 * While requests are pending on a side, the direct calls of that side say EBUSY. Nothing goes on by itself: test, wait
 * and progress move things. They do not arm the descriptor, and never sleep but in wait. */
typedef struct vmsgr_request {
    struct vmsgr_request *next;
    vmsgr_channel *channel;
    void *data;
    size_t bytes;
    ssize_t result;
    int state;
    int errnum;
} vmsgr_request;
/* [sending side] and [receiving side] */
VMSGR_API int vmsgr_channel_isend(vmsgr_channel *channel, const void *data, size_t bytes, vmsgr_request *request);
VMSGR_API int vmsgr_channel_irecv(vmsgr_channel *channel, void *buffer, size_t bytes, vmsgr_request *request);
/* 1: done, and *bytes (unless NULL) is the message's length. 0: not yet. -1: it has failed, errno says how: as send and
 * recv do. [the request's side] */
VMSGR_API int vmsgr_request_test(vmsgr_request *request, size_t *bytes);
/* The same, waiting: 1, or -1 with EAGAIN, ETIMEDOUT or EINTR (the request goes on) or its failure. */
VMSGR_API int vmsgr_request_wait(vmsgr_request *request, size_t *bytes, int timeout_ms);
/* A request that is not done yet is taken back: 1; 0: it is done already. */
VMSGR_API int vmsgr_request_cancel(vmsgr_request *request);
/* Moves all requests of a channel; how many are pending. [both sides: for programs with one thread a channel] */
VMSGR_API int vmsgr_channel_progress(vmsgr_channel *channel);

VMSGR_API int vmsgr_channel_fd(const vmsgr_channel *channel);
/* The largest message that can be sent: what both ends take. */
VMSGR_API size_t vmsgr_channel_max(const vmsgr_channel *channel);
/* 1: both programs share memory; 0: vmsgrd carries it. */
VMSGR_API int vmsgr_channel_is_local(const vmsgr_channel *channel);
VMSGR_API int vmsgr_channel_local(const vmsgr_channel *channel, struct sockaddr *address, socklen_t *length);
VMSGR_API int vmsgr_channel_peer(const vmsgr_channel *channel, struct sockaddr *address, socklen_t *length);

typedef struct vmsgr_channel_counts {
    size_t size; /* sizeof(struct vmsgr_channel_counts), set by the caller */
    unsigned long long messages_sent, bytes_sent, messages_received, bytes_received;
    unsigned long long send_sleeps, recv_sleeps; /* waits in the kernel, for room and for messages */
} vmsgr_channel_counts;
VMSGR_API int vmsgr_channel_stats(const vmsgr_channel *channel, vmsgr_channel_counts *counts);
/* Why the channel has ended: 1 and an error with its text; 0: it has not. Any thread. */
VMSGR_API int vmsgr_channel_why(const vmsgr_channel *channel, vmsgr_error *error);
/* Finishes and closes; does not wait. NULL is ignored, errno is kept. Pending requests are forgotten. */
VMSGR_API void vmsgr_channel_close(vmsgr_channel *channel);

#ifdef __cplusplus
}
#endif

#endif
