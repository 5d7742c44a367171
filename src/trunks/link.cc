#include "trunks/link.hh"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <system_error>

#include <seastar/core/coroutine.hh>
#include <seastar/net/packet.hh>
#include <seastar/net/posix-stack.hh>

#include "conn/kernel_socket.hh"

namespace vmsgr::trunks {

namespace {

constexpr unsigned read_bytes = 128 << 10;
// What is as long as that goes to the sink by the write already, not by a flush later: a round trip is 8 us shorter.
constexpr size_t put_at_once = 8192;

seastar::connected_socket_input_stream_config large_reads() {
    seastar::connected_socket_input_stream_config c;
    c.buffer_size = c.max_buffer_size = read_bytes;
    c.min_buffer_size = read_bytes / 8;
    return c;
}

class tls_source final : public seastar::data_source_impl {
    std::shared_ptr<tls_session> _of;

public:
    explicit tls_source(std::shared_ptr<tls_session> of) noexcept : _of(std::move(of)) {}
    seastar::future<seastar::temporary_buffer<char>> get() override { return _of->read(); }
    seastar::future<> close() override {
        _of->shut_input();
        return seastar::make_ready_future<>();
    }
};

class tls_sink final : public seastar::data_sink_impl {
    std::shared_ptr<tls_session> _to;

public:
    explicit tls_sink(std::shared_ptr<tls_session> to) noexcept : _to(std::move(to)) {}
    using seastar::data_sink_impl::put;
    seastar::future<> put(seastar::net::packet p) override {
        return seastar::futurize_invoke([&] { _to->put(p); });
    }
    seastar::future<> flush() override { return _to->flush(); }
    seastar::future<> close() override { return _to->close(); }
    size_t buffer_size() const noexcept override { return read_bytes; }
    // A flush when the shard has nothing else to do: what a turn brings, leaves by one write.
    bool can_batch_flushes() const noexcept override { return true; }
    // The reader hears of it.
    void on_batch_flush_error() noexcept override { _to->shut_input(); }
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
    seastar::pollable_fd socket(seastar::file_desc::from_fd(fd.release()));
    std::unique_ptr<seastar::data_source_impl> from;
    std::unique_ptr<seastar::data_sink_impl> to;
    if (tls.on()) {
        auto secured = co_await tls.secure(std::move(socket), role);
        _tls = std::move(secured.session);
        _peer.secured = true;
        _peer.names = std::move(secured.names);
        _peer.identity = std::move(secured.identity);
        from = std::make_unique<tls_source>(_tls);
        to = std::make_unique<tls_sink>(_tls);
    } else {
        from = std::make_unique<seastar::net::posix_data_source_impl>(socket, large_reads());
        to = std::make_unique<seastar::net::posix_data_sink_impl>(socket);
    }
    seastar::output_stream_options batched;
    batched.batch_flushes = true;
    _in = seastar::input_stream<char>(seastar::data_source(std::move(from)));
    _out = seastar::output_stream<char>(seastar::data_sink(std::move(to)), put_at_once, batched);
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
    co_await _out.write(std::move(batch));
    co_await _out.flush();
    if (_tls) {
        co_await _tls->flush();  // Seastar's flush comes later, and more would be made before it
    }
}

seastar::future<std::expected<trunk::hello, trunk::packet_fault>> link::receive_hello() {
    auto buf = co_await _in.read_exactly(trunk::hello_bytes);
    co_return trunk::to_hello(std::as_bytes(std::span(buf.get(), buf.size())));
}

}  // namespace vmsgr::trunks
