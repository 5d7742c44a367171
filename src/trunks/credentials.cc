#include "trunks/credentials.hh"

#include <string>

#include <seastar/core/coroutine.hh>
#include <seastar/net/tls.hh>

#include "trunk/certificate.hh"
#include "trunks/log.hh"

namespace vmsgr::trunks {

namespace tls = seastar::tls;

std::optional<trunk::refusal> refusal_of(const std::exception_ptr& e) noexcept {
    try {
        std::rethrow_exception(e);
    } catch (const wrong_peer&) {
        return trunk::refusal::name;
    } catch (const tls::verification_error&) {
        return trunk::refusal::certificate;
    } catch (const std::system_error& s) {
        return s.code().category() == tls::error_category() ? std::optional(trunk::refusal::certificate) : std::nullopt;
    } catch (...) {
        return std::nullopt;
    }
}

credentials::credentials() = default;
credentials::~credentials() = default;

namespace {

// Both ends are ours, so there is nothing older to speak with, and by TLS 1.2 a peer may begin a handshake anew at any
// time. The fastest cipher first that this processor has instructions for.
std::string priorities() {
    return std::string("SECURE128:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:") +
           (__builtin_cpu_supports("aes") != 0 ? "+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305"
                                               : "+CHACHA20-POLY1305:+AES-128-GCM:+AES-256-GCM");
}

}  // namespace

seastar::future<> credentials::load(const conf::trunk_tls& files, std::function<void()> renewed) {
    tls::credentials_builder b;
    co_await b.set_x509_trust_file(files.ca, tls::x509_crt_format::PEM);
    co_await b.set_x509_key_file(files.certificate, files.key, tls::x509_crt_format::PEM);
    if (!files.crl.empty()) {
        co_await b.set_x509_crl_file(files.crl, tls::x509_crt_format::PEM);
    }
    b.set_client_auth(tls::client_auth::REQUIRE);
    b.set_priority_string(priorities());
    auto told = [renewed = std::move(renewed)](const std::unordered_set<seastar::sstring>& changed,
                                               std::exception_ptr e) {
        if (e) {
            log.error("certificates of trunks: {}; the ones read before stay in use", e);
        } else {
            log.info("certificates of trunks were read again ({} files changed); peers are judged anew",
                     changed.size());
            renewed();
        }
    };
    _client = co_await b.build_reloadable_certificate_credentials(tls::reload_callback(told));
    _server = co_await b.build_reloadable_server_credentials(tls::reload_callback(told));
    _names = files.names;
}

seastar::future<credentials::secured> credentials::wrap(seastar::connected_socket s, const link_role& role) {
    secured out;
    if (role.dials) {
        tls::tls_options options;
        options.wait_for_eof_on_shutdown = false;
        out.socket = co_await tls::wrap_client(_client, std::move(s), std::move(options));
    } else {
        out.socket = co_await tls::wrap_server(_server, std::move(s));
    }
    auto chain = co_await tls::get_peer_certificate_chain(out.socket);  // the handshake happens here
    if (chain.empty()) {
        throw tls::verification_error("the peer shows no certificate");
    }
    auto names = trunk::names_of_certificate(chain.front());
    if (!names) {
        throw tls::verification_error("the peer's certificate: " + names.error().text);
    }
    if (out.identity = trunk::identity_of(chain.front(), *names); out.identity.empty()) {
        throw tls::verification_error("the peer's certificate has no name, and its fingerprint cannot be computed");
    }
    if (auto why = trunk::misfit(*names, role.wanted, _names); !why.empty()) {
        throw wrong_peer(why);
    }
    out.names = std::move(*names);
    co_return out;
}

}  // namespace vmsgr::trunks
