#include "trunks/tls.hh"

#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <limits>
#include <system_error>

#include <fmt/format.h>
#include <seastar/core/coroutine.hh>
#include <seastar/util/later.hh>

#include "trunk/freed.hh"

namespace vmsgr::trunks {

namespace {

constexpr size_t record_bytes = 16 << 10;  // the most of TLS
constexpr size_t record_extra = 5 + 1 + 16;  // header, type, tag
constexpr size_t chunk_bytes = 128 << 10, small_chunk_bytes = 1 << 10;
constexpr size_t read_bytes = 64 << 10;
constexpr size_t turn_bytes = 2 * read_bytes;  // records without data can be as small as 6 bytes
constexpr size_t handshake_turn_bytes = 8 << 10;  // OpenSSL reads these record by record
constexpr size_t made_bytes_max = 1 << 20;  // a batch of packets is a quarter of that

// Empties this thread's list of errors. Throws std::bad_alloc where one of them is that.
std::string error_text() {
    const char* reason = nullptr;
    bool no_memory = false;
    for (unsigned long e = ERR_get_error(); e != 0; e = ERR_get_error()) {
        reason = reason == nullptr ? ERR_reason_error_string(e) : reason;
        no_memory = no_memory || ERR_GET_REASON(e) == ERR_R_MALLOC_FAILURE;
    }
    if (no_memory) {
        throw std::bad_alloc();
    }
    return reason != nullptr ? reason : "OpenSSL names no cause";
}

[[noreturn]] void refuse(const char* what) {
    throw tls_error(std::string(what) + " cannot be used (" + error_text() + "); a whole file in PEM is expected");
}

using bio_ptr = std::unique_ptr<BIO, trunk::freed<BIO_free_all>>;
using x509_ptr = std::unique_ptr<X509, trunk::freed<X509_free>>;
using crl_ptr = std::unique_ptr<X509_CRL, trunk::freed<X509_CRL_free>>;
using key_ptr = std::unique_ptr<EVP_PKEY, trunk::freed<EVP_PKEY_free>>;

// Nobody is there to ask for one.
int refuse_password(char*, int, int, void*) { return -1; }

bio_ptr memory(const std::string& text) {
    bio_ptr b(BIO_new_mem_buf(text.data(), int(text.size())));
    if (!b) {
        throw std::bad_alloc();
    }
    return b;
}

// Each piece of a PEM text to f, which returns 1 for good; throws tls_error at the first that cannot be read, and where
// there is none. `what`: the file, as the configuration calls it.
template <typename Ptr, typename Read, typename Func>
void each(const char* what, const std::string& text, Read read, Func f) {
    ERR_clear_error();
    const auto from = memory(text);
    unsigned n = 0;
    for (Ptr p{read(from.get(), nullptr, refuse_password, nullptr)}; p;
         p.reset(read(from.get(), nullptr, refuse_password, nullptr))) {
        if (f(p.get()) != 1) {
            refuse(what);
        }
        ++n;
    }
    if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE || n == 0) {
        refuse(what);
    }
    ERR_clear_error();
}

time_t end_of(const X509_CRL* list) {
    tm end{};
    const ASN1_TIME* said = X509_CRL_get0_nextUpdate(list);
    return said != nullptr && ASN1_TIME_to_tm(said, &end) == 1 ? ::timegm(&end) : std::numeric_limits<time_t>::max();
}

// The list is a file of this host: one that should have been renewed still revokes what it revokes, and to refuse
// everybody would end what works. The owner is told (tls_context::lists_end).
int judge_certificate(int good, X509_STORE_CTX* c) {
    if (good == 0 && X509_STORE_CTX_get_error(c) == X509_V_ERR_CRL_HAS_EXPIRED) {
        X509_STORE_CTX_set_error(c, X509_V_OK);
        return 1;
    }
    return good;
}

// For Wireshark (docs/TRUNKS-DEBUG.md).
void log_keys(const SSL*, const char* line) {
    const int fd = ::open(::getenv("SSLKEYLOGFILE"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) {
        const std::string text = std::string(line) + "\n";
        [[maybe_unused]] const auto n = ::write(fd, text.data(), text.size());
        ::close(fd);
    }
}

// We give no tickets, so a peer that sends one has something else in mind; each costs 10 us.
void look_at_message(int sent, int, int type, const void* data, size_t n, SSL* s, void*) {
    if (sent == 0 && type == SSL3_RT_HANDSHAKE && n > 0 &&
        *static_cast<const unsigned char*>(data) == SSL3_MT_NEWSESSION_TICKET) {
        static_cast<tls_session*>(BIO_get_data(SSL_get_rbio(s)))->got_unasked();
    }
}

tls_session& of(BIO* b) noexcept { return *static_cast<tls_session*>(BIO_get_data(b)); }

int bio_write(BIO* b, const char* data, int n) {
    BIO_clear_retry_flags(b);
    return of(b).take(data, n);
}

int bio_read(BIO* b, char* to, int n) {
    BIO_clear_retry_flags(b);
    bool later = false;
    const int r = of(b).give(to, n, later);
    if (later) {
        BIO_set_retry_read(b);
    }
    return r;
}

long bio_control(BIO* b, int what, long, void*) {
    return what == BIO_CTRL_FLUSH || (what == BIO_CTRL_EOF && of(b).at_end()) ? 1 : 0;
}

const BIO_METHOD* method() {
    static const BIO_METHOD* const made = [] {
        BIO_METHOD* m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "vmsgr");
        if (m == nullptr) {
            throw std::bad_alloc();
        }
        BIO_meth_set_write(m, bio_write);
        BIO_meth_set_read(m, bio_read);
        BIO_meth_set_ctrl(m, bio_control);
        return m;
    }();
    return made;
}

}  // namespace

// --- certificates -----------------------------------------------------------------------------------------------

void tls_context::freed::operator()(SSL_CTX* c) const noexcept { SSL_CTX_free(c); }

tls_context::tls_context(const tls_texts& t)
    : _c(SSL_CTX_new(TLS_method())), _lists_end(std::numeric_limits<time_t>::max()), rekey_bytes(t.rekey_bytes) {
    if (!_c) {
        throw std::bad_alloc();
    }
    SSL_CTX* c = _c.get();
    // Both ends are ours, so there is nothing older to speak with.
    SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION);
    // The fastest first that this processor has instructions for.
    const bool aes = __builtin_cpu_supports("aes") != 0;
    SSL_CTX_set_ciphersuites(c, aes ? "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
                                    : "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384");
    SSL_CTX_set_options(c, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_TICKET | SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_num_tickets(c, 0);
    SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
    SSL_CTX_clear_mode(c, SSL_MODE_AUTO_RETRY);  // one new key of the peer, and others have their turn
    SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(c, 1);
    SSL_CTX_set_default_read_buffer_len(c, read_bytes);
    SSL_CTX_set_verify(c, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, judge_certificate);
    SSL_CTX_set_msg_callback(c, look_at_message);
    if (::getenv("SSLKEYLOGFILE") != nullptr) {
        SSL_CTX_set_keylog_callback(c, log_keys);
    }
    trust(t);
    show(t);
}

// Whom to believe.
void tls_context::trust(const tls_texts& t) {
    X509_STORE* trusted = SSL_CTX_get_cert_store(_c.get());
    // The file says whom to trust, also where it is no root.
    unsigned long flags = X509_V_FLAG_PARTIAL_CHAIN;
    each<x509_ptr>("trunk.tls.ca", t.ca, PEM_read_bio_X509, [&](X509* x) { return X509_STORE_add_cert(trusted, x); });
    if (t.crl) {
        flags |= X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL;
        each<crl_ptr>("trunk.tls.crl", *t.crl, PEM_read_bio_X509_CRL, [&](X509_CRL* list) {
            _lists_end = std::min(_lists_end, end_of(list));
            return X509_STORE_add_crl(trusted, list);
        });
    }
    // One certificate for both directions.
    if (X509_STORE_set_flags(trusted, flags) != 1 || SSL_CTX_set_purpose(_c.get(), X509_PURPOSE_ANY) != 1) {
        throw std::bad_alloc();
    }
}

// Who this daemon is.
void tls_context::show(const tls_texts& t) {
    SSL_CTX* c = _c.get();
    unsigned place = 0;
    each<x509_ptr>("trunk.tls.certificate", t.certificate, PEM_read_bio_X509, [&](X509* x) {
        return int(place++ == 0 ? SSL_CTX_use_certificate(c, x) : SSL_CTX_add1_chain_cert(c, x));
    });
    ERR_clear_error();
    const key_ptr key(PEM_read_bio_PrivateKey(memory(t.key).get(), nullptr, refuse_password, nullptr));
    if (!key || SSL_CTX_use_PrivateKey(c, key.get()) != 1 || SSL_CTX_check_private_key(c) != 1) {
        refuse("trunk.tls.key");
    }
}

// --- a connection -----------------------------------------------------------------------------------------------

void tls_session::freed::operator()(SSL* s) const noexcept { SSL_free(s); }

tls_session::tls_session(std::shared_ptr<const tls_context> c, seastar::pollable_fd fd, bool dials)
    : _context(std::move(c)), _fd(std::move(fd)), _s(SSL_new(_context->get())) {
    BIO* b = BIO_new(method());
    if (!_s || b == nullptr) {
        BIO_free(b);
        throw std::bad_alloc();
    }
    BIO_set_data(b, this);
    BIO_set_init(b, 1);
    SSL_set_bio(_s.get(), b, b);
    dials ? SSL_set_connect_state(_s.get()) : SSL_set_accept_state(_s.get());
}

int tls_session::take(const char* data, int n) noexcept try {
    if (_made_bytes > made_bytes_max) {
        return -1;  // a peer that reads nothing, and asks
    }
    _made_bytes += size_t(n);
    const char* at = data;
    for (size_t left = size_t(n); left != 0;) {
        if (_made.empty() || _filled == _made.back().size()) {
            _made.emplace_back(std::clamp(std::max(left, _expected), small_chunk_bytes, chunk_bytes));
            _filled = 0;
        }
        const size_t part = std::min(left, _made.back().size() - _filled);
        memcpy(_made.back().get_write() + _filled, at, part);
        _filled += part;
        _expected -= std::min(_expected, part);
        at += part;
        left -= part;
    }
    return n;
} catch (const std::bad_alloc&) {
    return -1;
}

int tls_session::give(char* to, int n, bool& later) noexcept {
    later = _turns_bytes == 0;
    if (later) {
        return -1;
    }
    const ssize_t r = ::recv(_fd.get_file_desc().get(), to, std::min(size_t(n), _turns_bytes), MSG_DONTWAIT);
    later = _dry = r < 0 && (errno == EAGAIN || errno == EINTR);
    _at_end = r == 0;
    _turns_bytes -= r > 0 ? size_t(r) : 0;
    return int(r);
}

// Of a call that returned this. Throws std::bad_alloc.
std::exception_ptr tls_session::failure(int what) const {
    if (what != SSL_ERROR_SSL) {
        return std::make_exception_ptr(
            std::system_error(ECONNRESET, std::generic_category(), "the connection broke below TLS"));
    }
    const std::string text = error_text();
    const long verdict = SSL_get_verify_result(_s.get());
    return std::make_exception_ptr(
        tls_error(verdict == X509_V_OK
                      ? text
                      : fmt::format("the peer's certificate: {} ({})", X509_verify_cert_error_string(verdict), text)));
}

seastar::future<> tls_session::shake_hands() {
    auto self = shared_from_this();
    for (;;) {
        ERR_clear_error();
        _turns_bytes = handshake_turn_bytes;
        const int r = SSL_do_handshake(_s.get());
        const int what = SSL_get_error(_s.get(), r);
        const auto failed = what == SSL_ERROR_NONE || what == SSL_ERROR_WANT_READ ? nullptr : failure(what);
        if (failed) {
            co_await flush().handle_exception([](const std::exception_ptr&) {});  // the alert that says why not
            std::rethrow_exception(failed);
        }
        co_await flush();
        if (what == SSL_ERROR_NONE) {
            co_return;
        }
        co_await more();
    }
}

std::vector<uint8_t> tls_session::peer_certificate() const {
    std::vector<uint8_t> der;
    X509* x = SSL_get0_peer_certificate(_s.get());
    const int n = x != nullptr ? i2d_X509(x, nullptr) : 0;
    if (n > 0) {
        der.resize(size_t(n));
        unsigned char* at = der.data();
        i2d_X509(x, &at);
    }
    return der;
}

void tls_session::encrypt(const char* data, size_t n) {
    size_t done = 0;
    ERR_clear_error();
    if ((_of_key += n + record_extra) > _context->rekey_bytes) {
        SSL_key_update(_s.get(), SSL_KEY_UPDATE_NOT_REQUESTED);  // the peer does so for its own
        _of_key = n;
    }
    if (SSL_write_ex(_s.get(), data, n, &done) != 1 || done != n) {
        throw tls_error("nothing can be sent: " + error_text());
    }
}

// OpenSSL makes a record of each write.
void tls_session::put(const seastar::net::packet& p) {
    static thread_local std::array<char, record_bytes> to_be_filled;
    _expected = p.len() + (p.len() / record_bytes + 1) * record_extra;
    char* const whole = to_be_filled.data();
    size_t filled = 0;
    for (const auto& f : p.fragments()) {
        for (size_t at = 0; at < f.size;) {
            if (filled == 0 && f.size - at >= record_bytes) {
                encrypt(f.base + at, record_bytes);
                at += record_bytes;
                continue;
            }
            const size_t n = std::min(record_bytes - filled, f.size - at);
            memcpy(whole + filled, f.base + at, n);
            filled += n;
            at += n;
            if (filled == record_bytes) {
                encrypt(whole, std::exchange(filled, 0));
            }
        }
    }
    if (filled != 0) {
        encrypt(whole, filled);
    }
}

seastar::future<> tls_session::flush() {
    if (_made.empty()) {
        return seastar::make_ready_future<>();
    }
    return seastar::with_semaphore(_turn, 1, [this] { return write(); }).finally([me = shared_from_this()] {});
}

// Also what is made meanwhile.
seastar::future<> tls_session::write() {
    while (!_made.empty()) {
        _made.back().trim(_filled);
        _made_bytes = 0;
        seastar::net::packet p;
        for (auto& r : std::exchange(_made, {})) {
            p = seastar::net::packet(std::move(p), std::move(r));
        }
        co_await _fd.write_all(p);
    }
}

// A reader that waited for a write would not read what the peer waits for with its own.
void tls_session::flush_later() noexcept {
    if (_turn.available_units() > 0) {
        (void)flush().handle_exception([](const std::exception_ptr&) {});  // the reader hears of it
    }
}

seastar::future<> tls_session::more() { return _dry ? _fd.readable() : seastar::yield(); }

seastar::future<seastar::temporary_buffer<char>> tls_session::read() {
    auto self = shared_from_this();
    while (!_failed) {
        seastar::temporary_buffer<char> out(read_bytes);
        size_t have = 0;
        int what = SSL_ERROR_NONE;
        _turns_bytes = turn_bytes;
        while (what == SSL_ERROR_NONE && have < out.size()) {
            size_t n = 0;
            ERR_clear_error();
            const int r = SSL_read_ex(_s.get(), out.get_write() + have, out.size() - have, &n);
            have += r == 1 ? n : 0;
            what = SSL_get_error(_s.get(), r);
        }
        if (_unasked) {
            _failed = std::make_exception_ptr(tls_error("the peer sent a ticket, which nobody has asked for"));
        } else if (what != SSL_ERROR_NONE && what != SSL_ERROR_WANT_READ && what != SSL_ERROR_ZERO_RETURN) {
            _failed = failure(what);
        }
        flush_later();  // an answer to new keys, or an alert
        if (have != 0) {
            out.trim(have);
            co_return out;
        }
        if (what == SSL_ERROR_ZERO_RETURN) {
            co_return seastar::temporary_buffer<char>();
        }
        out = {};
        if (!_failed) {
            co_await more();
        }
    }
    std::rethrow_exception(_failed);
}

seastar::future<> tls_session::close() {
    auto self = shared_from_this();
    if (_turn.current() == 0) {
        _fd.shutdown(SHUT_WR, seastar::pollable_fd::shutdown_kernel_only::no);  // the write that is under way ends
        co_return;
    }
    ERR_clear_error();
    SSL_shutdown(_s.get());
    co_await flush();
    _fd.shutdown(SHUT_WR, seastar::pollable_fd::shutdown_kernel_only::no);
}

void tls_session::shut_input() noexcept { _fd.shutdown(SHUT_RD, seastar::pollable_fd::shutdown_kernel_only::no); }

}  // namespace vmsgr::trunks
