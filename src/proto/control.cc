#include "proto/control.hh"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>

#include "base/rights.hh"
#include "base/sockets.hh"
#include "base/sys.hh"

namespace vmsgr::proto {

namespace {

constexpr size_t scm_fds_max = 253;  // SCM_MAX_FD of the kernel
constexpr int queued_max = 1024;     // more messages than a sender's buffer holds

}  // namespace

int send_with_fds(int sock, const void* msg, size_t bytes, std::span<const int> fds, int flags) noexcept {
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * fds_max)] = {};
    iovec iov{const_cast<void*>(msg), bytes};
    msghdr h{};
    h.msg_iov = &iov;
    h.msg_iovlen = 1;
    base::put_rights(h, control, fds.first(std::min(fds.size(), fds_max)));
    ssize_t r = sys::sendmsg(sock, &h, flags | MSG_NOSIGNAL);
    return r < 0 ? errno : size_t(r) == bytes ? 0 : EMSGSIZE;
}

void received::drop() noexcept {
    for (auto& fd : fds) {
        if (fd) {
            base::stop_lingering(fd.get());
            fd.reset();
        }
    }
    fd_count = 0;
}

int receive_with_fds(int sock, void* msg, size_t bytes, int flags, received& out, shm::rights_sink* surplus) noexcept {
    // Room for all that one message can carry: what does not fit, the kernel closes in this call, which waits if it
    // lingers.
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * scm_fds_max)];
    iovec iov{msg, bytes};
    msghdr h{};
    h.msg_iov = &iov;
    h.msg_iovlen = 1;
    h.msg_control = control;
    h.msg_controllen = sizeof control;
    ssize_t r = sys::recvmsg(sock, &h, flags | MSG_CMSG_CLOEXEC);
    if (r < 0) {
        return errno;
    }
    out.bytes = size_t(r);
    out.truncated = (h.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
    out.lost = (h.msg_flags & MSG_CTRUNC) != 0;  // there was room for all that the kernel lets anybody send
    out.fd_count = 0;
    base::each_right(h, [&](int fd) {
        base::unique_fd owned(fd);
        if (out.fd_count < fds_max) {
            out.fds[out.fd_count++] = std::move(owned);
            return;
        }
        out.truncated = true;
        if (surplus != nullptr) {
            surplus->take(std::move(owned));
        } else {
            base::stop_lingering(fd);
        }
    });
    return 0;
}

void drop_unread(int sock) noexcept {
    sys::call(SYS_shutdown, sock, SHUT_RDWR);  // nothing more comes
    const bool packets = base::socket_option(sock, SO_TYPE) == SOCK_SEQPACKET;
    char bytes[1024];
    received got;
    for (int i = 0; i < queued_max; ++i) {
        const int e = receive_with_fds(sock, bytes, sizeof bytes, MSG_DONTWAIT, got);
        got.drop();
        const bool end = got.bytes == 0 && !packets;  // an empty packet looks like the end of file, and may not be it
        if (e != EINTR && (e != 0 || end)) {
            return;
        }
    }
}

base::unique_fd take_moved_socket(int bell, uint32_t& tokens_taken, shm::rights_sink* unwanted) noexcept {
    constexpr int tokens_max = 4096;  // a doorbell holds a handful
    unsigned char token = 0;
    for (int i = 0; i < tokens_max; ++i) {
        received got;
        if (receive_with_fds(bell, &token, 1, MSG_DONTWAIT, got) != 0 || got.bytes == 0) {
            break;
        }
        ++tokens_taken;
        if (got.fd_count == 1 && base::not_unix(got.fds[0].get(), SOCK_STREAM) == nullptr) {
            return std::move(got.fds[0]);
        }
        for (auto& fd : got.fds) {
            if (fd && unwanted != nullptr) {
                unwanted->take(std::move(fd));
            }
        }
        got.drop();
    }
    return {};
}

int unix_address(const char* path, void* out, uint32_t& len) noexcept {
    auto* un = static_cast<sockaddr_un*>(out);
    size_t n = strlen(path);
    if (n >= sizeof un->sun_path) {
        return ENAMETOOLONG;
    }
    memset(un, 0, sizeof *un);
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, n);
    len = uint32_t(offsetof(sockaddr_un, sun_path) + n + 1);
    return 0;
}

}  // namespace vmsgr::proto
