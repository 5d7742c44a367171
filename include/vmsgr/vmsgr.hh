// libvmsgr in C++23: owners and std::expected over the C API of vmsgr.h, which says what each call does, which threads
// may make it and how it fails. Header only; nothing throws but std::bad_alloc for the text of an error.
//
//     auto session = vmsgr::session::open();
//     auto stream = session.and_then([&](auto& s) { return s.carry(socket, "backup"); });
//     if (!stream) std::cerr << stream.error().text << '\n';
//
//     auto channel = session->connect(vmsgr::ipv4("127.0.0.1", 7000));      // messages
//     channel->send(std::as_bytes(std::span("hello")));
//     auto answer = channel->recv(buffer);                                   // std::expected<size_t, std::error_code>
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <vmsgr/vmsgr.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <system_error>

namespace vmsgr {

// Why something could not be opened.
struct error {
    int errnum = 0;
    std::string text;  // one line: the cause and the next step
};

// One carried connection. Moved from: empty, and only to be assigned or destroyed.
class stream {
    struct closer {
        void operator()(vmsgr_stream* s) const noexcept { vmsgr_stream_close(s); }
    };
    std::unique_ptr<vmsgr_stream, closer> _s;

    static std::expected<std::size_t, std::error_code> counted(ssize_t n) noexcept {
        if (n < 0) {
            return std::unexpected(std::error_code(errno, std::system_category()));
        }
        return static_cast<std::size_t>(n);
    }

public:
    using count = std::expected<std::size_t, std::error_code>;

    // Takes over what vmsgr_stream_open() gave.
    explicit stream(vmsgr_stream* owned) noexcept : _s(owned) {}

    vmsgr_stream* get() const noexcept { return _s.get(); }
    int fd() const noexcept { return vmsgr_stream_fd(_s.get()); }

    count send(std::span<const std::byte> data, int flags = MSG_NOSIGNAL) noexcept {
        return counted(vmsgr_stream_send(_s.get(), data.data(), data.size(), flags));
    }
    count recv(std::span<std::byte> buffer, int flags = 0) noexcept {
        return counted(vmsgr_stream_recv(_s.get(), buffer.data(), buffer.size(), flags));
    }
    // More pieces than an int counts are more than the library takes.
    count sendv(std::span<const iovec> pieces, int flags = MSG_NOSIGNAL) noexcept {
        return counted(vmsgr_stream_sendv(_s.get(), pieces.data(), clipped(pieces.size()), flags));
    }
    count recvv(std::span<const iovec> pieces, int flags = 0) noexcept {
        return counted(vmsgr_stream_recvv(_s.get(), pieces.data(), clipped(pieces.size()), flags));
    }
    std::error_code shutdown(int how) noexcept {
        return vmsgr_stream_shutdown(_s.get(), how) == 0 ? std::error_code()
                                                         : std::error_code(errno, std::system_category());
    }
    sockaddr_storage local() const noexcept { return address(vmsgr_stream_local); }
    sockaddr_storage peer() const noexcept { return address(vmsgr_stream_peer); }

private:
    static int clipped(std::size_t n) noexcept { return n > 0xffff ? 0xffff : static_cast<int>(n); }
    sockaddr_storage address(int (*which)(const vmsgr_stream*, sockaddr*, socklen_t*)) const noexcept {
        sockaddr_storage ss{};
        socklen_t length = sizeof ss;
        which(_s.get(), reinterpret_cast<sockaddr*>(&ss), &length);
        return ss;
    }
};

// How channels are opened; what is not set is the library's default. See vmsgr_channel_options.
struct channel_options {
    std::size_t max_message_bytes = 0;
    int timeout_ms = 0;
    int spin_us = 0;
    const char* name = nullptr;
};

// Addresses for listen and connect; nothing where the text is none.
struct address {
    sockaddr_storage storage{};
    socklen_t length = 0;

    const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&storage); }
};
inline address ipv4(const char* text, std::uint16_t port) noexcept {
    address a;
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    if (inet_pton(AF_INET, text, &in.sin_addr) == 1) {
        std::memcpy(&a.storage, &in, a.length = sizeof in);
    }
    return a;
}
inline address ipv6(const char* text, std::uint16_t port) noexcept {
    address a;
    sockaddr_in6 in{};
    in.sin6_family = AF_INET6;
    in.sin6_port = htons(port);
    if (inet_pton(AF_INET6, text, &in.sin6_addr) == 1) {
        std::memcpy(&a.storage, &in, a.length = sizeof in);
    }
    return a;
}

inline constexpr int for_ever = -1;

// One message channel. One thread may send while another receives. Moved from: empty, and only to be assigned or
// destroyed.
class channel {
    struct closer {
        void operator()(vmsgr_channel* c) const noexcept { vmsgr_channel_close(c); }
    };
    std::unique_ptr<vmsgr_channel, closer> _c;

    static std::error_code last(int result) noexcept {
        return result == 0 ? std::error_code() : std::error_code(errno, std::system_category());
    }
    static std::unexpected<std::error_code> failed() noexcept {
        return std::unexpected(std::error_code(errno, std::system_category()));
    }

public:
    // A received message in place; the next one can be looked at once this is gone.
    class message {
        struct releaser {
            void operator()(vmsgr_channel* c) const noexcept { vmsgr_channel_release(c); }
        };
        std::unique_ptr<vmsgr_channel, releaser> _c;
        std::span<const std::byte> _bytes;

    public:
        message(vmsgr_channel* c, std::span<const std::byte> bytes) noexcept : _c(c), _bytes(bytes) {}
        // The sender's memory too: copy what must not change between a check and its use.
        std::span<const std::byte> bytes() const noexcept { return _bytes; }
    };

    // Takes over what vmsgr_channel_connect() or vmsgr_listener_accept() gave.
    explicit channel(vmsgr_channel* owned) noexcept : _c(owned) {}

    vmsgr_channel* get() const noexcept { return _c.get(); }
    int fd() const noexcept { return vmsgr_channel_fd(_c.get()); }
    std::size_t max() const noexcept { return vmsgr_channel_max(_c.get()); }
    bool is_local() const noexcept { return vmsgr_channel_is_local(_c.get()) != 0; }

    std::error_code send(std::span<const std::byte> data, int flags = 0, int timeout_ms = for_ever) noexcept {
        return last(vmsgr_channel_send(_c.get(), data.data(), data.size(), flags, timeout_ms));
    }
    std::expected<std::size_t, std::error_code> recv(std::span<std::byte> buffer, int timeout_ms = for_ever) noexcept {
        ssize_t n = vmsgr_channel_recv(_c.get(), buffer.data(), buffer.size(), timeout_ms);
        return n < 0 ? std::expected<std::size_t, std::error_code>(failed()) : static_cast<std::size_t>(n);
    }
    void flush() noexcept { vmsgr_channel_flush(_c.get()); }
    std::error_code finish() noexcept { return last(vmsgr_channel_finish(_c.get())); }

    // Written in place: fill the span, then commit().
    std::expected<std::span<std::byte>, std::error_code> reserve(std::size_t bytes,
                                                                 int timeout_ms = for_ever) noexcept {
        void* place = nullptr;
        if (vmsgr_channel_reserve(_c.get(), bytes, timeout_ms, &place) != 0) {
            return failed();
        }
        return std::span(static_cast<std::byte*>(place), bytes);
    }
    std::error_code commit(std::size_t bytes, int flags = 0) noexcept {
        return last(vmsgr_channel_commit(_c.get(), bytes, flags));
    }
    // Read in place.
    std::expected<message, std::error_code> peek(int timeout_ms = for_ever) noexcept {
        const void* at = nullptr;
        ssize_t n = vmsgr_channel_peek(_c.get(), &at, timeout_ms);
        if (n < 0) {
            return failed();
        }
        return message(_c.get(), {static_cast<const std::byte*>(at), static_cast<std::size_t>(n)});
    }

    vmsgr_channel_counts stats() const noexcept {
        vmsgr_channel_counts counts{};
        counts.size = sizeof counts;
        vmsgr_channel_stats(_c.get(), &counts);
        return counts;
    }
    // Why it has ended; nothing while it has not.
    std::optional<error> why() const {
        vmsgr_error e;
        return vmsgr_channel_why(_c.get(), &e) == 1 ? std::optional(error{e.errnum, e.text}) : std::nullopt;
    }
};

// Listens for channels. One thread at a time. Moved from: empty, and only to be assigned or destroyed.
class listener {
    struct closer {
        void operator()(vmsgr_listener* l) const noexcept { vmsgr_listener_close(l); }
    };
    std::unique_ptr<vmsgr_listener, closer> _l;

public:
    // Takes over what vmsgr_channel_listen() gave.
    explicit listener(vmsgr_listener* owned) noexcept : _l(owned) {}

    vmsgr_listener* get() const noexcept { return _l.get(); }
    int fd() const noexcept { return vmsgr_listener_fd(_l.get()); }
    vmsgr::address address() const noexcept {
        vmsgr::address a;
        a.length = sizeof a.storage;
        vmsgr_listener_address(_l.get(), reinterpret_cast<sockaddr*>(&a.storage), &a.length);
        return a;
    }
    std::uint16_t port() const noexcept {
        const auto a = address();
        return ntohs(a.storage.ss_family == AF_INET ? reinterpret_cast<const sockaddr_in&>(a.storage).sin_port
                                                    : reinterpret_cast<const sockaddr_in6&>(a.storage).sin6_port);
    }
    std::expected<channel, error> accept(int timeout_ms = for_ever) {
        vmsgr_channel* c = nullptr;
        vmsgr_error e;
        if (vmsgr_listener_accept(_l.get(), timeout_ms, &c, &e) != 0) {
            return std::unexpected(error{e.errnum, e.text});
        }
        return channel(c);
    }
};

// This process attached to vmsgrd. Moved from: empty, and only to be assigned or destroyed.
class session {
    struct closer {
        void operator()(vmsgr_session* s) const noexcept { vmsgr_session_close(s); }
    };
    std::unique_ptr<vmsgr_session, closer> _s;

public:
    // Null pointers: the defaults of vmsgr_session_options.
    static std::expected<session, error> open(const char* socket_path = nullptr, const char* program = nullptr) {
        const vmsgr_session_options options{sizeof options, socket_path, program};
        vmsgr_session* s = nullptr;
        vmsgr_error e;
        if (vmsgr_session_open(&options, &s, &e) != 0) {
            return std::unexpected(error{e.errnum, e.text});
        }
        return session(s);
    }

    // Takes over what vmsgr_session_open() gave.
    explicit session(vmsgr_session* owned) noexcept : _s(owned) {}

    vmsgr_session* get() const noexcept { return _s.get(); }

    // On success the socket's number is closed; on failure it stays the caller's.
    std::expected<stream, error> carry(int connected_tcp_socket, const char* name = nullptr) {
        vmsgr_stream* s = nullptr;
        vmsgr_error e;
        if (vmsgr_stream_open(_s.get(), connected_tcp_socket, name, &s, &e) != 0) {
            return std::unexpected(error{e.errnum, e.text});
        }
        return stream(s);
    }

    std::expected<listener, error> listen(const address& at, const channel_options& options = {}) {
        return opened<listener, vmsgr_listener>(vmsgr_channel_listen, at, options);
    }
    std::expected<channel, error> connect(const address& to, const channel_options& options = {}) {
        return opened<channel, vmsgr_channel>(vmsgr_channel_connect, to, options);
    }

private:
    template <typename Owner, typename Handle, typename Open>
    std::expected<Owner, error> opened(Open open, const address& at, const channel_options& given) {
        const vmsgr_channel_options options{sizeof options, given.max_message_bytes, given.timeout_ms, given.spin_us,
                                            given.name};
        Handle* h = nullptr;
        vmsgr_error e;
        if (open(_s.get(), at.get(), at.length, &options, &h, &e) != 0) {
            return std::unexpected(error{e.errnum, e.text});
        }
        return Owner(h);
    }
};

}  // namespace vmsgr
