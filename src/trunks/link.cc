#include "trunks/link.hh"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <system_error>
#include <vector>

#include <seastar/core/coroutine.hh>
#include <seastar/core/internal/pollable_fd.hh>
#include <seastar/core/semaphore.hh>
#include <seastar/coroutine/as_future.hh>
#include <seastar/net/packet.hh>
#include <seastar/net/posix-stack.hh>
#include <seastar/net/stack.hh>

#include "conn/kernel_socket.hh"

namespace vmsgr::trunks {

// The records that TLS has made of one batch, to leave by one write: TLS hands them down one by one. On from the first
// batch; off during the handshake, which waits for its answers, and for the farewell.
class record_gatherer : public std::enable_shared_from_this<record_gatherer> {
    seastar::net::posix_data_sink_impl _to;
    std::vector<seastar::net::packet> _held;
    seastar::semaphore _turn{1};  // to write: Seastar also flushes of its own accord

public:
    bool on = false;

    explicit record_gatherer(const seastar::pollable_fd& fd) : _to(fd) {}
    seastar::future<> put(seastar::net::packet p) {
        _held.push_back(std::move(p));
        return on ? seastar::make_ready_future<>() : flush();
    }
    // Seastar waits for some of these and not for others: each keeps this alive.
    seastar::future<> flush() {
        return seastar::with_semaphore(_turn, 1, [this] { return write(std::exchange(_held, {})); })
            .finally([me = shared_from_this()] {});
    }
    void on_batch_flush_error() noexcept { _to.on_batch_flush_error(); }
    seastar::future<> close() {
        if (_turn.current() == 0) {
            return _to.close();  // the write that is under way ends by this
        }
        return flush().finally([me = shared_from_this()] { return me->_to.close(); });
    }

private:
    seastar::future<> write(std::vector<seastar::net::packet> records) {
        if (records.empty()) {
            return seastar::make_ready_future<>();
        }
        for (size_t i = 1; i < records.size(); ++i) {
            records.front().append(std::move(records[i]));
        }
        return _to.put(std::move(records.front()));
    }
};

namespace {

constexpr unsigned read_bytes = 128 << 10;
constexpr unsigned record_bytes = 16 << 10;  // the most of TLS

seastar::connected_socket_input_stream_config large_reads() {
    seastar::connected_socket_input_stream_config c;
    c.buffer_size = c.max_buffer_size = read_bytes;
    c.min_buffer_size = read_bytes / 8;
    return c;
}

class gathering_sink final : public seastar::data_sink_impl {
    std::shared_ptr<record_gatherer> _to;

public:
    explicit gathering_sink(std::shared_ptr<record_gatherer> to) noexcept : _to(std::move(to)) {}
    using seastar::data_sink_impl::put;
    seastar::future<> put(seastar::net::packet p) override { return _to->put(std::move(p)); }
    seastar::future<> flush() override { return _to->flush(); }
    seastar::future<> close() override { return _to->close(); }
    size_t buffer_size() const noexcept override { return read_bytes; }
    // A flush when the shard has nothing else to do: what a turn brings, leaves by one write.
    bool can_batch_flushes() const noexcept override { return true; }
    void on_batch_flush_error() noexcept override { _to->on_batch_flush_error(); }
};

// TLS makes a record of each piece. One piece for all of a batch would fill records too, but ask for much memory in a
// row.
seastar::net::packet in_full_records(seastar::net::packet batch) {
    seastar::net::packet out;
    seastar::temporary_buffer<char> piece;
    size_t filled = 0, left = batch.len();
    for (const auto& f : batch.fragments()) {
        for (size_t at = 0; at < f.size;) {
            if (filled == piece.size()) {
                if (filled != 0) {
                    out = seastar::net::packet(std::move(out), std::move(piece));
                }
                piece = seastar::temporary_buffer<char>(std::min<size_t>(left, record_bytes));
                filled = 0;
            }
            const size_t n = std::min(piece.size() - filled, f.size - at);
            memcpy(piece.get_write() + filled, f.base + at, n);
            filled += n;
            at += n;
            left -= n;
        }
    }
    return filled == 0 ? std::move(out) : seastar::net::packet(std::move(out), std::move(piece));
}

// What Seastar's streams and its TLS need of a socket.
class fd_socket final : public seastar::net::connected_socket_impl {
    seastar::pollable_fd _fd;
    std::shared_ptr<record_gatherer> _records;

public:
    explicit fd_socket(base::unique_fd fd)
        : _fd(seastar::file_desc::from_fd(fd.release())), _records(std::make_shared<record_gatherer>(_fd)) {}
    const std::shared_ptr<record_gatherer>& records() const noexcept { return _records; }
    // For TLS, which is over it.
    seastar::data_source source() override { return source({.buffer_size = record_bytes}); }
    seastar::data_source source(seastar::connected_socket_input_stream_config c) override {
        return seastar::data_source(std::make_unique<seastar::net::posix_data_source_impl>(_fd, c));
    }
    seastar::data_sink sink() override { return seastar::data_sink(std::make_unique<gathering_sink>(_records)); }
    void shutdown_input() override { _fd.shutdown(SHUT_RD, seastar::pollable_fd::shutdown_kernel_only::no); }
    void shutdown_output() override { _fd.shutdown(SHUT_WR, seastar::pollable_fd::shutdown_kernel_only::no); }
    void set_nodelay(bool) override {}
    bool get_nodelay() const override { return true; }
    void set_keepalive(bool) override {}
    bool get_keepalive() const override { return false; }
    void set_keepalive_parameters(const seastar::net::keepalive_params&) override {}
    seastar::net::keepalive_params get_keepalive_parameters() const override {
        return seastar::net::tcp_keepalive_params{};
    }
    void set_sockopt(int level, int name, const void* data, size_t len) override {
        ::setsockopt(_fd.get_file_desc().get(), level, name, data, socklen_t(len));
    }
    int get_sockopt(int level, int name, void* data, size_t len) const override {
        socklen_t n = socklen_t(len);
        return ::getsockopt(_fd.get_file_desc().get(), level, name, data, &n);
    }
    seastar::socket_address local_address() const noexcept override { return {}; }
    seastar::socket_address remote_address() const noexcept override { return {}; }
    seastar::future<> wait_input_shutdown() override { return _fd.poll_rdhup(); }
};

}  // namespace

seastar::future<> link::start(base::unique_fd fd, credentials& tls, const link_role& role) {
    int on = 1;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    _handle = conn::duplicate(fd.get());
    _peer.from = conn::peer_address(fd.get()).unmapped();
    if (_peer.from.family == 0) {
        // A reset came first. Who it was is not known: it must not be taken for somebody else (client::start).
        throw std::system_error(ENOTCONN, std::generic_category(), "the connection has broken");
    }
    base::address host = _peer.from;
    host.port = 0;
    _peer.identity = base::to_string(host);
    auto socket = std::make_unique<fd_socket>(std::move(fd));
    _records = socket->records();
    _socket = seastar::connected_socket(std::move(socket));
    if (tls.on()) {
        auto secured = co_await tls.wrap(std::move(_socket), role);
        _socket = std::move(secured.socket);
        _peer.secured = true;
        _peer.names = std::move(secured.names);
        _peer.identity = std::move(secured.identity);
    }
    _in = _socket.input(large_reads());
    _out = _socket.output();
    _started = true;
}

void link::shut() noexcept {
    if (_handle) {
        ::shutdown(_handle.get(), SHUT_RDWR);
    }
}

// These two are no coroutines, as those need memory to begin, and a stream that is not closed may not end.
seastar::future<> link::finish_output() noexcept {
    if (std::exchange(_out_closed, true)) {
        return seastar::make_ready_future<>();
    }
    if (_records) {
        _records->on = false;
    }
    return _out.close().handle_exception([](const std::exception_ptr&) {});
}

seastar::future<> link::close() noexcept {
    if (!std::exchange(_started, false)) {
        return seastar::make_ready_future<>();
    }
    return finish_output()
        .then([this] { return _in.close(); })
        .handle_exception([](const std::exception_ptr&) {})
        .finally([this] { _handle.reset(); });
}

seastar::future<> link::send(const trunk::hello& h) {
    const auto bytes = trunk::to_packet(h);
    // As a packet, like all that follows: a flush may be carried out later, and Seastar does not let a stream mix the
    // two kinds of writes before that.
    co_await _out.write(seastar::net::packet(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    co_await _out.flush();
}

seastar::future<> link::send(seastar::net::packet batch) {
    if (_peer.secured) {
        batch = in_full_records(std::move(batch));
        _records->on = true;
    }
    co_await _out.write(std::move(batch));
    co_await _out.flush();
    if (_peer.secured) {
        co_await _records->flush();  // Seastar's flush comes later, and more would be made before it
    }
}

seastar::future<std::expected<trunk::hello, trunk::packet_fault>> link::receive_hello() {
    auto buf = co_await _in.read_exactly(trunk::hello_bytes);
    co_return trunk::to_hello(std::as_bytes(std::span(buf.get(), buf.size())));
}

}  // namespace vmsgr::trunks
