#include "trunk/certificate.hh"

#include <errno.h>
#include <gnutls/x509.h>

#include <algorithm>
#include <array>
#include <memory>

#include "base/text.hh"

namespace vmsgr::trunk {

namespace {

constexpr size_t name_bytes_max = 255;  // as DNS has it
constexpr unsigned alt_names_max = 1024;

using certificate_ptr = std::unique_ptr<std::remove_pointer_t<gnutls_x509_crt_t>, decltype(&gnutls_x509_crt_deinit)>;
using name_list = std::vector<std::string>;

// Where one entry cannot be read, the certificate names nobody: its common name is no substitute.
base::result<name_list> dns_names(gnutls_x509_crt_t c) {
    name_list out;
    for (unsigned i = 0; i < alt_names_max; ++i) {
        char name[name_bytes_max + 1];
        size_t n = sizeof name;
        const int type = gnutls_x509_crt_get_subject_alt_name(c, i, name, &n, nullptr);
        if (type == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
            return out;
        }
        if (type < 0) {
            return base::fail(EINVAL, std::string("a subject alternative name: ") + gnutls_strerror(type));
        }
        if (type == GNUTLS_SAN_DNSNAME) {
            out.emplace_back(name, n);
        }
    }
    return base::fail(E2BIG, "more than " + std::to_string(alt_names_max) + " subject alternative names");
}

name_list common_name(gnutls_x509_crt_t c) {
    name_list out;
    for (unsigned i = 0; i < 2; ++i) {
        char name[name_bytes_max + 1];
        size_t n = sizeof name;
        const int err = gnutls_x509_crt_get_dn_by_oid(c, GNUTLS_OID_X520_COMMON_NAME, i, 0, name, &n);
        if (err == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
            break;
        }
        out.emplace_back(err == 0 ? std::string(name, n) : std::string());
    }
    return out.size() == 1 && !out.front().empty() ? out : name_list();
}

std::string listed(std::span<const std::string> names) {
    std::string out;
    for (auto& n : names) {
        out += (out.empty() ? "'" : ", '") + base::printable(n.data(), n.size()) + "'";
    }
    return out.empty() ? "nobody" : out;
}

}  // namespace

base::result<std::vector<std::string>> names_of_certificate(std::span<const uint8_t> der) {
    gnutls_x509_crt_t raw = nullptr;
    if (int err = gnutls_x509_crt_init(&raw); err != 0) {
        return base::fail(ENOMEM, std::string("a certificate: ") + gnutls_strerror(err));
    }
    certificate_ptr c(raw, gnutls_x509_crt_deinit);
    const gnutls_datum_t bytes{const_cast<unsigned char*>(der.data()), unsigned(der.size())};  // it only reads
    if (int err = gnutls_x509_crt_import(c.get(), &bytes, GNUTLS_X509_FMT_DER); err != 0) {
        return base::fail(EINVAL, std::string("a certificate that cannot be read: ") + gnutls_strerror(err));
    }
    auto found = dns_names(c.get());
    return found && found->empty() ? common_name(c.get()) : found;
}

std::string identity_of(std::span<const uint8_t> der, std::span<const std::string> names) {
    if (!names.empty()) {
        return base::printable(names.front().data(), names.front().size());
    }
    std::array<unsigned char, 32> digest;
    size_t n = digest.size();
    const gnutls_datum_t bytes{const_cast<unsigned char*>(der.data()), unsigned(der.size())};  // it only reads
    if (gnutls_fingerprint(GNUTLS_DIG_SHA256, &bytes, digest.data(), &n) != 0) {
        return {};
    }
    std::string out = "sha256:";
    for (unsigned char c : std::span(digest).first(n)) {
        constexpr char hex[] = "0123456789abcdef";
        (out += hex[c >> 4]) += hex[c & 15];
    }
    return out;
}

bool is_one_of(std::string_view name, std::span<const std::string> names) noexcept {
    return std::ranges::any_of(names, [&](const std::string& n) { return base::same_name(n, name); });
}

std::string misfit(std::span<const std::string> names, std::string_view wanted, std::span<const std::string> allowed) {
    if (!wanted.empty() && !is_one_of(wanted, names)) {
        return "the peer's certificate names " + listed(names) + ", but this trunk is to '" + std::string(wanted) +
               "'; trunks[].name must be the name in the certificate";
    }
    auto is_allowed = [&](const std::string& n) { return is_one_of(n, allowed); };
    if (!allowed.empty() && std::ranges::none_of(names, is_allowed)) {
        return "the peer's certificate names " + listed(names) + ", which trunk.tls.names does not have";
    }
    return {};
}

}  // namespace vmsgr::trunk
