// libvmsgr in C++23: owners and std::expected over the C API of vmsgr.h, which says what each call does, which threads
// may make it and how it fails. Header only; nothing throws but std::bad_alloc for the text of an error.
//
//     auto session = vmsgr::session::open();
//     auto stream = session.and_then([&](auto& s) { return s.carry(socket, "backup"); });
//     if (!stream) std::cerr << stream.error().text << '\n';
#pragma once

#include <vmsgr/vmsgr.h>

#include <cerrno>
#include <cstddef>
#include <expected>
#include <memory>
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
    sockaddr_storage address(int (*get)(const vmsgr_stream*, sockaddr*, socklen_t*)) const noexcept {
        sockaddr_storage ss{};
        socklen_t length = sizeof ss;
        get(_s.get(), reinterpret_cast<sockaddr*>(&ss), &length);
        return ss;
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
};

}  // namespace vmsgr
