#include <errno.h>
#include <sys/socket.h>

#include "conn/far.hh"
#include "ssx/event_set.hh"

namespace vmsgr::net {

namespace {

class tcp_far final : public far_side, public pull_source, public ssx::event_sink {
    base::unique_fd& _fd;
    far_user* _user = nullptr;
    ssx::event_set::registration _events;
    bool _writable = false;  // and no error
    bool _may_end = false;

public:
    explicit tcp_far(base::unique_fd& fd) noexcept : _fd(fd) {}

    conn_path path() const noexcept override { return conn_path::direct; }
    bool watch(ssx::event_set& events, far_user& user) noexcept override {
        _user = &user;
        auto r = events.add(_fd.get(), *this);
        if (r) {
            _events = std::move(*r);
        }
        return bool(r);
    }
    void unwatch() noexcept override { _events.reset(); }
    void on_events(uint32_t events) noexcept override {
        // Kept from the first event on: an end that comes before connecting() is looked at makes no second edge.
        _may_end = _may_end || (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI)) != 0;
        _writable = (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) == EPOLLOUT;
        _user->on_events(events);
    }

    progress connecting() noexcept override {
        const progress now = connect_progress(_fd.get());
        // TCP_FASTOPEN_CONNECT: writable at once, and the first send connects.
        return now == progress::under_way && _writable ? progress::up : now;
    }
    int take_error() noexcept override { return take_socket_error(_fd.get()); }
    base::address local() const noexcept override { return local_address(_fd.get()); }
    base::address peer() const noexcept override { return peer_address(_fd.get()); }

    std::variant<pull_source*, push_source*> source() noexcept override { return static_cast<pull_source*>(this); }
    ssize_t receive(std::span<const iovec> space) noexcept override {
        msghdr m{};
        m.msg_iov = const_cast<iovec*>(space.data());
        m.msg_iovlen = space.size();
        ssize_t r = ::recvmsg(_fd.get(), &m, MSG_DONTWAIT);
        return r < 0 ? -errno : r;
    }
    bool short_read_empties() const noexcept override { return !_may_end; }
    bool has_unread() const noexcept override { return net::has_unread(_fd.get()); }

    ssize_t send(std::span<const iovec> pieces, bool more) noexcept override {
        msghdr m{};
        m.msg_iov = const_cast<iovec*>(pieces.data());
        m.msg_iovlen = pieces.size();
        ssize_t r = ::sendmsg(_fd.get(), &m, MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0));
        return r < 0 ? -errno : r;
    }
    void shut_send() noexcept override { ::shutdown(_fd.get(), SHUT_WR); }

    void close() noexcept override { close_tcp(_fd); }
    void reset() noexcept override { reset_tcp(_fd); }
    void release() noexcept override { _fd.reset(); }
    void discard_input() noexcept override {
        constexpr int rounds = 64;
        constexpr size_t chunk = 1 << 20;
        for (int i = 0; i < rounds && ::recv(_fd.get(), nullptr, chunk, MSG_TRUNC | MSG_DONTWAIT) > 0; ++i) {
        }
    }
};

}  // namespace

std::unique_ptr<far_side> make_tcp_far(base::unique_fd& socket) { return std::make_unique<tcp_far>(socket); }

}  // namespace vmsgr::net
