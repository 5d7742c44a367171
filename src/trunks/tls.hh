// TLS 1.3 on a connected socket, by OpenSSL. What one turn sends becomes records in one run of memory, which leaves by
// one write; what comes is read from the socket into OpenSSL's own buffer and decrypted into the reader's.
//
// Why not Seastar's: its TLS is GnuTLS, whose AES-128-GCM has a third of the speed of OpenSSL's, and it writes each
// record by itself (docs/DECISIONS.md).
//
// Owner: the link of that socket. All calls on its shard.
#pragma once

#include <cstdint>
#include <ctime>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <seastar/core/future.hh>
#include <seastar/core/internal/pollable_fd.hh>
#include <seastar/core/semaphore.hh>
#include <seastar/core/temporary_buffer.hh>
#include <seastar/net/packet.hh>

struct ssl_ctx_st;
struct ssl_st;

namespace vmsgr::trunks {

// The peer, or a file, is not what it should be. what() says why.
class tls_error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// Files in PEM.
struct tls_texts {
    std::string ca, certificate, key;
    std::optional<std::string> crl;  // none: nothing is revoked. Else a list of each CA
    uint64_t rekey_bytes = 0;  // what a key encrypts before a new one follows it
};

// Certificates for connections of both directions. Not changed once it is made; sessions hold it.
class tls_context {
    struct freed {
        void operator()(ssl_ctx_st* c) const noexcept;
    };
    std::unique_ptr<ssl_ctx_st, freed> _c;
    time_t _lists_end;

    void trust(const tls_texts& t);
    void show(const tls_texts& t);

public:
    const uint64_t rekey_bytes;

    // Throws tls_error where a text is no certificate, key or list, or key and certificate do not fit.
    explicit tls_context(const tls_texts& t);
    ssl_ctx_st* get() const noexcept { return _c.get(); }
    // When the first list of revoked certificates says that there should be a newer one.
    time_t lists_end() const noexcept { return _lists_end; }
};

class tls_session : public std::enable_shared_from_this<tls_session> {
    struct freed {
        void operator()(ssl_st* s) const noexcept;
    };
    std::shared_ptr<const tls_context> _context;
    seastar::pollable_fd _fd;
    std::unique_ptr<ssl_st, freed> _s;
    std::vector<seastar::temporary_buffer<char>> _made;  // records that have not left; the last one is in part filled
    size_t _filled = 0;  // of the last
    size_t _made_bytes = 0;  // of all
    size_t _expected = 0;  // bytes that the records of now will have, about
    uint64_t _of_key = 0;  // bytes that the present key has encrypted
    seastar::semaphore _turn{1};  // to write
    bool _at_end = false;  // the peer has sent all
    bool _dry = false;  // nothing more was in the socket
    bool _unasked = false;  // the peer has sent what no peer sends
    size_t _turns_bytes = 0;  // what OpenSSL may still take from the socket before others have their turn
    std::exception_ptr _failed;  // the next read says so

public:
    // Throws std::bad_alloc.
    tls_session(std::shared_ptr<const tls_context> c, seastar::pollable_fd fd, bool dials);

    // Throws tls_error, or std::system_error where the connection broke. Both certificates are good afterwards, but for
    // the names: a peer that connected is told later if ours is not.
    seastar::future<> shake_hands();
    // In DER.
    std::vector<uint8_t> peer_certificate() const;

    // Makes records, to leave with the next flush. Throws.
    void put(const seastar::net::packet& p);
    seastar::future<> flush();
    // As much as there is, at most 64 KiB, and no memory is held while nothing comes; empty: the end.
    seastar::future<seastar::temporary_buffer<char>> read();
    // What was made leaves, and the peer is told that it was all. A write that waits ends by this.
    seastar::future<> close();

    void shut_input() noexcept;
    // For OpenSSL: what it writes and reads. As BIO_write and BIO_read; -1 and `later`: not now.
    int take(const char* data, int n) noexcept;
    int give(char* to, int n, bool& later) noexcept;
    bool at_end() const noexcept { return _at_end; }
    void got_unasked() noexcept { _unasked = true; }

private:
    void encrypt(const char* data, size_t n);
    // OpenSSL has all that it may take for now: more has come, or others had their turn.
    seastar::future<> more();
    seastar::future<> write();
    // What has begun to leave, nobody waits for.
    void flush_later() noexcept;
    std::exception_ptr failure(int result) const;
};

}  // namespace vmsgr::trunks
