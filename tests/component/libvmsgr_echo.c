/* Sends what stdin holds through libvmsgr to an echo server and compares what comes back.
 *
 *     libvmsgr_echo CONTROL-SOCKET PORT     prints: local and peer port, bytes, "same" or "other"
 *     libvmsgr_echo [CONTROL-SOCKET]        opens a session only; prints errnum and text when that is refused
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vmsgr/vmsgr.h>

enum { BYTES = 1 << 20 };

static char sent[BYTES], came[BYTES];

static void die(const char* what) {
    perror(what);
    exit(3);
}

static int connected(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr*)&to, sizeof to) != 0) {
        die("connect");
    }
    return fd;
}

/* In two pieces, and not waiting in send but in poll. */
static void* sender(void* p) {
    vmsgr_stream* stream = p;
    size_t done = 0;
    while (done < BYTES) {
        size_t half = (BYTES - done) / 2;
        struct iovec pieces[2] = {{sent + done, half}, {sent + done + half, BYTES - done - half}};
        ssize_t n = vmsgr_stream_sendv(stream, pieces, 2, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd wait = {vmsgr_stream_fd(stream), POLLOUT, 0};
            poll(&wait, 1, -1);
        } else if (n < 0) {
            die("send");
        } else {
            done += (size_t)n;
        }
    }
    if (vmsgr_stream_shutdown(stream, SHUT_WR) != 0) {
        die("shutdown");
    }
    return NULL;
}

static int port_of(int (*get)(const vmsgr_stream*, struct sockaddr*, socklen_t*), vmsgr_stream* stream) {
    struct sockaddr_in at;
    socklen_t length = sizeof at;
    if (get(stream, (struct sockaddr*)&at, &length) != 0 || length != sizeof at || at.sin_family != AF_INET) {
        die("address");
    }
    return ntohs(at.sin_port);
}

int main(int argc, char** argv) {
    vmsgr_session_options options = {
        .size = sizeof options, .socket_path = argc > 1 ? argv[1] : NULL, .program = "echo-test"};
    vmsgr_session* session;
    vmsgr_stream* stream;
    vmsgr_error error;
    if (vmsgr_session_open(&options, &session, &error) != 0) {
        printf("%d %s\n", error.errnum, error.text);
        return error.errnum == errno ? 1 : 4;
    }
    if (argc < 3) {
        vmsgr_session_close(session);
        return 0;
    }
    for (size_t n = 0; n < BYTES;) {
        ssize_t r = read(0, sent + n, BYTES - n);
        if (r <= 0) {
            die("stdin");
        }
        n += (size_t)r;
    }
    int port = atoi(argv[2]);
    int unconnected = socket(AF_INET, SOCK_STREAM, 0);
    if (vmsgr_stream_open(session, unconnected, NULL, &stream, &error) != -1 || errno != ENOTCONN ||
        fcntl(unconnected, F_GETFD) < 0 || strstr(error.text, "is not connected: connect it first") == NULL) {
        die("a socket that is not connected");
    }
    if (vmsgr_stream_open(session, 1, NULL, &stream, NULL) != -1 || errno != ENOTSOCK) {
        die("stdout");
    }
    int fd = connected(port);
    if (vmsgr_stream_open(session, fd, "by-hand", &stream, &error) != 0) {
        printf("%d %s\n", error.errnum, error.text);
        return 1;
    }
    if (fcntl(fd, F_GETFD) >= 0) {
        die("the socket's number is still open");
    }
    printf("%d %d ", port_of(vmsgr_stream_local, stream), port_of(vmsgr_stream_peer, stream));
    pthread_t thread;
    if (pthread_create(&thread, NULL, sender, stream) != 0) {
        die("pthread_create");
    }
    size_t n = 0;
    for (ssize_t r; (r = vmsgr_stream_recv(stream, came + n, BYTES - n, 0)) > 0; n += (size_t)r) {
    }
    char more;
    if (n == BYTES && vmsgr_stream_recv(stream, &more, 1, 0) != 0) {
        die("no end of file");
    }
    pthread_join(thread, NULL);
    printf("%zu %s\n", n, memcmp(sent, came, BYTES) == 0 ? "same" : "other");
    fflush(stdout);
    getchar(); /* the test looks at vmsgrd's views meanwhile */
    vmsgr_session_close(session);
    vmsgr_stream_close(stream);
    return 0;
}
