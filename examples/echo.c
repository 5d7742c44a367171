/* echo: a server that sends every message back, and a client that asks it.
 *
 *     echo serve PORT             (0: any; prints the port)
 *     echo ask PORT WORDS...      prints what comes back, one line a message
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vmsgr/vmsgr.h>

static void die(const char* text) {
    fprintf(stderr, "echo: %s\n", text);
    exit(1);
}

static struct sockaddr_in loopback(const char* port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port))};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return at;
}

/* One client after the other. Each message is sent back from where it lies: nothing is copied but into the ring. */
static void serve(vmsgr_session* session, const char* port) {
    vmsgr_error error;
    vmsgr_listener* listener;
    struct sockaddr_in at = loopback(port);
    socklen_t length = sizeof at;
    if (vmsgr_channel_listen(session, (struct sockaddr*)&at, length, NULL, &listener, &error) != 0) {
        die(error.text);
    }
    vmsgr_listener_address(listener, (struct sockaddr*)&at, &length);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    for (;;) {
        vmsgr_channel* channel;
        if (vmsgr_listener_accept(listener, -1, &channel, &error) != 0) {
            die(error.text);
        }
        const void* message;
        ssize_t bytes;
        while ((bytes = vmsgr_channel_peek(channel, &message, -1)) >= 0) {
            int sent = vmsgr_channel_send(channel, message, (size_t)bytes, 0, -1);
            vmsgr_channel_release(channel);
            if (sent != 0) {
                break;
            }
        }
        if (errno != ENODATA && vmsgr_channel_why(channel, &error) == 1) {
            fprintf(stderr, "echo: %s\n", error.text);
        }
        vmsgr_channel_close(channel);
    }
}

static void ask(vmsgr_session* session, const char* port, char** words) {
    vmsgr_error error;
    vmsgr_channel* channel;
    struct sockaddr_in to = loopback(port);
    if (vmsgr_channel_connect(session, (struct sockaddr*)&to, sizeof to, NULL, &channel, &error) != 0) {
        die(error.text);
    }
    for (; *words != NULL; ++words) {
        char answer[65536];
        if (vmsgr_channel_send(channel, *words, strlen(*words), 0, -1) != 0) {
            die("the server is gone");
        }
        ssize_t bytes = vmsgr_channel_recv(channel, answer, sizeof answer, 5000);
        if (bytes < 0) {
            die(vmsgr_channel_why(channel, &error) == 1 ? error.text : strerror(errno));
        }
        printf("%.*s\n", (int)bytes, answer);
    }
    vmsgr_channel_close(channel);
}

int main(int argc, char** argv) {
    vmsgr_error error;
    vmsgr_session* session;
    if (argc < 3 || (strcmp(argv[1], "serve") != 0 && strcmp(argv[1], "ask") != 0)) {
        die("usage: echo serve PORT | echo ask PORT WORDS...");
    }
    if (vmsgr_session_open(NULL, &session, &error) != 0) {
        die(error.text);
    }
    if (strcmp(argv[1], "serve") == 0) {
        serve(session, argv[2]);
    }
    ask(session, argv[2], argv + 3);
    vmsgr_session_close(session);
    return 0;
}
