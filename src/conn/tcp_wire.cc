#include <errno.h>
#include <sys/socket.h>

#include "conn/wire.hh"

namespace vmsgr::net {

namespace {

class tcp_wire final : public wire {
    base::unique_fd& _fd;
    ssx::event_set::registration _events;

public:
    explicit tcp_wire(base::unique_fd& fd) noexcept : _fd(fd) {}

    bool watch(ssx::event_set& events, wire_user& user) noexcept override {
        auto r = events.add(_fd.get(), user);
        if (r) {
            _events = std::move(*r);
        }
        return bool(r);
    }
    void unwatch() noexcept override { _events.reset(); }

    progress connecting() noexcept override { return connect_progress(_fd.get()); }
    int take_error() noexcept override { return take_socket_error(_fd.get()); }
    base::address local() const noexcept override { return local_address(_fd.get()); }
    base::address peer() const noexcept override { return peer_address(_fd.get()); }

    ssize_t send(std::span<const iovec> pieces, bool more) noexcept override {
        msghdr m{};
        m.msg_iov = const_cast<iovec*>(pieces.data());
        m.msg_iovlen = pieces.size();
        ssize_t r = ::sendmsg(_fd.get(), &m, MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0));
        return r < 0 ? -errno : r;
    }
    ssize_t receive(std::span<const iovec> space) noexcept override {
        msghdr m{};
        m.msg_iov = const_cast<iovec*>(space.data());
        m.msg_iovlen = space.size();
        ssize_t r = ::recvmsg(_fd.get(), &m, MSG_DONTWAIT);
        return r < 0 ? -errno : r;
    }
    bool has_unread() const noexcept override { return net::has_unread(_fd.get()); }

    void shut_send() noexcept override { ::shutdown(_fd.get(), SHUT_WR); }
    // Closing with unread data would send RST and lose what is still on its way out.
    void discard_input() noexcept override {
        constexpr int rounds = 64;
        constexpr size_t chunk = 1 << 20;
        for (int i = 0; i < rounds && ::recv(_fd.get(), nullptr, chunk, MSG_TRUNC | MSG_DONTWAIT) > 0; ++i) {
        }
    }
    void close() noexcept override { close_tcp(_fd); }
    void reset() noexcept override { reset_tcp(_fd); }
};

}  // namespace

std::unique_ptr<wire> make_tcp_wire(base::unique_fd& socket) { return std::make_unique<tcp_wire>(socket); }

}  // namespace vmsgr::net
