#include "trunks/link.hh"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>

#include <seastar/core/coroutine.hh>
#include <seastar/core/internal/pollable_fd.hh>
#include <seastar/coroutine/as_future.hh>
#include <seastar/net/packet.hh>
#include <seastar/net/posix-stack.hh>
#include <seastar/net/stack.hh>
#include <seastar/net/tls.hh>

#include "conn/kernel_socket.hh"
#include "conn/log.hh"

namespace vmsgr::net {

namespace {

constexpr unsigned read_bytes = 128 << 10;

// What Seastar's streams and its TLS need of a socket.
class fd_socket final : public seastar::net::connected_socket_impl {
    seastar::pollable_fd _fd;

public:
    explicit fd_socket(base::unique_fd fd) : _fd(seastar::file_desc::from_fd(fd.release())) {}
    seastar::data_source source() override { return source({}); }
    seastar::data_source source(seastar::connected_socket_input_stream_config c) override {
        return seastar::data_source(std::make_unique<seastar::net::posix_data_source_impl>(_fd, c));
    }
    seastar::data_sink sink() override {
        return seastar::data_sink(std::make_unique<seastar::net::posix_data_sink_impl>(_fd));
    }
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

// "C=DE,O=x,CN=host" -> "host"
std::string common_name(std::string_view subject) {
    auto at = subject.find("CN=");
    if (at == subject.npos || (at != 0 && subject[at - 1] != ',')) {
        return {};
    }
    subject.remove_prefix(at + 3);
    return std::string(subject.substr(0, subject.find(',')));
}

}  // namespace

trunk_credentials::trunk_credentials() = default;
trunk_credentials::~trunk_credentials() = default;
trunk_credentials::trunk_credentials(trunk_credentials&&) noexcept = default;
trunk_credentials& trunk_credentials::operator=(trunk_credentials&&) noexcept = default;

seastar::future<> trunk_credentials::load(const conf::trunk_tls& files) {
    namespace tls = seastar::tls;
    tls::credentials_builder b;
    co_await b.set_x509_trust_file(files.ca, tls::x509_crt_format::PEM);
    co_await b.set_x509_key_file(files.certificate, files.key, tls::x509_crt_format::PEM);
    b.set_client_auth(tls::client_auth::REQUIRE);
    b.set_priority_string("SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2");
    auto told = [](const std::unordered_set<seastar::sstring>& changed, std::exception_ptr e) {
        if (e) {
            log.error("certificates of trunks: {}; the ones read before stay in use", e);
        } else {
            log.info("certificates of trunks were read again ({} files changed)", changed.size());
        }
    };
    _client = co_await b.build_reloadable_certificate_credentials(tls::reload_callback(told));
    _server = co_await b.build_reloadable_server_credentials(tls::reload_callback(told));
    _names = files.names;
}

seastar::future<seastar::connected_socket> trunk_credentials::wrap(seastar::connected_socket s, bool as_client) {
    namespace tls = seastar::tls;
    seastar::connected_socket wrapped;
    if (as_client) {
        tls::tls_options options;
        options.wait_for_eof_on_shutdown = false;
        wrapped = co_await tls::wrap_client(_client, std::move(s), std::move(options));
    } else {
        wrapped = co_await tls::wrap_server(_server, std::move(s));
    }
    auto dn = co_await tls::get_dn_information(wrapped);  // the handshake happens here
    const std::string name = dn ? common_name(dn->subject) : std::string();
    if (!dn || (!_names.empty() && std::ranges::find(_names, name) == _names.end())) {
        throw tls::verification_error("the peer's certificate names '" + name + "', which is not in trunk.tls.names");
    }
    co_return wrapped;
}

seastar::future<> trunk_link::start(base::unique_fd fd, trunk_credentials& tls, bool as_client) {
    int on = 1;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    _handle = duplicate(fd.get());
    _socket = seastar::connected_socket(std::make_unique<fd_socket>(std::move(fd)));
    if (tls.on()) {
        _socket = co_await tls.wrap(std::move(_socket), as_client);
    }
    seastar::connected_socket_input_stream_config c;
    c.buffer_size = c.max_buffer_size = read_bytes;
    c.min_buffer_size = read_bytes / 8;
    _in = _socket.input(c);
    _out = _socket.output();
}

void trunk_link::shut() noexcept {
    if (_handle) {
        ::shutdown(_handle.get(), SHUT_RDWR);
    }
}

seastar::future<> trunk_link::finish_output() noexcept {
    if (!std::exchange(_out_closed, true)) {
        auto out = co_await seastar::coroutine::as_future(_out.close());
        out.ignore_ready_future();
    }
}

seastar::future<> trunk_link::close() noexcept {
    co_await finish_output();
    auto in = co_await seastar::coroutine::as_future(_in.close());
    in.ignore_ready_future();
    _handle.reset();
}

seastar::future<> trunk_link::send(std::span<const std::byte> bytes) {
    // As a packet, like all that follows: a flush may be carried out later, and Seastar does not let a stream mix the
    // two kinds of writes before that.
    co_await _out.write(seastar::net::packet(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    co_await _out.flush();
}

seastar::future<size_t> trunk_link::receive(std::span<std::byte> into) {
    auto buf = co_await _in.read_exactly(into.size());
    memcpy(into.data(), buf.get(), buf.size());
    co_return buf.size();
}

}  // namespace vmsgr::net
