#include <errno.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <linux/sockios.h>

#include "conn/far.hh"
#include "ssx/event_set.hh"

namespace vmsgr::conn {

namespace {

class tcp_far final : public far_side, public pull_source, public ssx::event_sink {
    base::unique_fd& _fd;
    far_user* _user = nullptr;
    ssx::event_set* _set = nullptr;
    ssx::event_set::registration _events;
    bool _writable = false;  // and no error
    bool _may_end = false;
    bool _may_be_urgent = true;  // the next byte: false right after an event that says IN without PRI
    uint64_t _read_at = 0;  // the turn of the last read
    bool _inline = false;
    bool _took_urgent = false;

public:
    explicit tcp_far(base::unique_fd& fd) noexcept : _fd(fd) {}

    conn_path path() const noexcept override { return conn_path::direct; }
    bool watch(ssx::event_set& events, far_user& user) override {
        _user = &user;
        _set = &events;
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
        if ((events & (EPOLLIN | EPOLLPRI)) != 0) {
            _may_be_urgent = (events & EPOLLPRI) != 0 || _read_at == _set->turn();
        }
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
        _took_urgent = false;
        // Before the first read: an urgent byte that reads have come to leaves the stream when another one comes.
        if (!std::exchange(_inline, true)) [[unlikely]] {
            constexpr int on = 1;
            ::setsockopt(_fd.get(), SOL_SOCKET, SO_OOBINLINE, &on, sizeof on);
        }
        _read_at = _set != nullptr ? _set->turn() : 0;
        // A read ends before an urgent byte, so one that follows another, or comes without an event, may begin with it.
        return std::exchange(_may_be_urgent, true) ? receive_carefully(space) : receive_some(space);
    }
    bool took_urgent() const noexcept override { return _took_urgent; }
    bool short_read_empties() const noexcept override { return !_may_end; }
    bool has_unread() const noexcept override { return conn::has_unread(_fd.get()); }

    ssize_t send(std::span<const iovec> pieces, sends how) noexcept override {
        msghdr m{};
        m.msg_iov = const_cast<iovec*>(pieces.data());
        m.msg_iovlen = pieces.size();
        ssize_t r = ::sendmsg(_fd.get(), &m, MSG_DONTWAIT | MSG_NOSIGNAL | flag_of(how));
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

private:
    static int flag_of(sends how) noexcept {
        switch (how) {
        case sends::all: return 0;
        case sends::more_follows: return MSG_MORE;
        case sends::urgent: return MSG_OOB;
        }
        return 0;
    }
    bool is_at_mark() const noexcept {
        int at_mark = 0;
        return ::ioctl(_fd.get(), SIOCATMARK, &at_mark) == 0 && at_mark != 0;
    }
    ssize_t receive_some(std::span<const iovec> space, size_t most = SIZE_MAX) noexcept {
        std::array<iovec, 2> pieces{};  // of a ring
        size_t n = 0;
        for (; n < std::min(space.size(), pieces.size()) && most != 0; ++n) {
            pieces[n] = {space[n].iov_base, std::min(space[n].iov_len, most)};
            most -= pieces[n].iov_len;
        }
        msghdr m{};
        m.msg_iov = pieces.data();
        m.msg_iovlen = n;
        const ssize_t r = ::recvmsg(_fd.get(), &m, MSG_DONTWAIT);
        return r < 0 ? -errno : r;
    }
    // An urgent byte may come between the look at the mark and the read, which would take it for an ordinary one: so no
    // more is read than was there before the look.
    ssize_t receive_carefully(std::span<const iovec> space) noexcept {
        for (;;) {
            int there = 0;
            if (::ioctl(_fd.get(), SIOCINQ, &there) != 0 || there < 0) {
                return receive_some(space);  // it is no connection, and says so
            }
            if (is_at_mark()) {
                const ssize_t r = receive_some(space, 1);
                _took_urgent = r == 1;
                return r;
            }
            if (there != 0) {
                return receive_some(space, size_t(there));
            }
            std::byte next;
            const ssize_t r = ::recv(_fd.get(), &next, 1, MSG_DONTWAIT | MSG_PEEK);
            if (r <= 0) {
                return r < 0 ? -errno : 0;
            }
        }
    }
};

}  // namespace

std::unique_ptr<far_side> make_tcp_far(base::unique_fd& socket) { return std::make_unique<tcp_far>(socket); }

}  // namespace vmsgr::conn
