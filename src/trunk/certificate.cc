#include "trunk/certificate.hh"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>
#include <memory>

#include "base/text.hh"
#include "trunk/freed.hh"

namespace vmsgr::trunk {

namespace {

constexpr int name_bytes_max = 255;  // as DNS has it
constexpr int alt_names_max = 1024;

using certificate_ptr = std::unique_ptr<X509, freed<X509_free>>;
using general_names_ptr = std::unique_ptr<GENERAL_NAMES, freed<GENERAL_NAMES_free>>;
using name_list = std::vector<std::string>;

void free_text(unsigned char* p) noexcept { OPENSSL_free(p); }

// What compares texts up to a NUL would take it for another name.
bool ends_early(const std::string& name) noexcept { return name.contains('\0'); }

std::string text_of(const ASN1_STRING* s) {
    return {reinterpret_cast<const char*>(ASN1_STRING_get0_data(s)), size_t(ASN1_STRING_length(s))};
}

// Where one entry cannot be read, the certificate names nobody: its common name is no substitute.
base::result<name_list> dns_names(X509* c) {
    constexpr int absent = -1;
    int found = absent;
    const general_names_ptr names(
        static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(c, NID_subject_alt_name, &found, nullptr)));
    ERR_clear_error();
    if (!names && found != absent) {
        return base::fail(EINVAL, "a subject alternative name that cannot be read, or two of them");
    }
    const int n = names ? sk_GENERAL_NAME_num(names.get()) : 0;
    if (n > alt_names_max) {
        return base::fail(E2BIG, "more than " + std::to_string(alt_names_max) + " subject alternative names");
    }
    name_list out;
    for (int i = 0; i < n; ++i) {
        const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
        if (name->type != GEN_DNS) {
            continue;
        }
        if (ASN1_STRING_length(name->d.dNSName) > name_bytes_max) {
            return base::fail(EINVAL, "a DNS name of more than " + std::to_string(name_bytes_max) + " bytes");
        }
        out.push_back(text_of(name->d.dNSName));
    }
    return out;
}

base::result<name_list> common_name(X509* c) {
    const X509_NAME* subject = X509_get_subject_name(c);
    const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    if (at < 0 || X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0) {
        return name_list();
    }
    unsigned char* raw = nullptr;
    const int n = ASN1_STRING_to_UTF8(&raw, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
    const std::unique_ptr<unsigned char, freed<free_text>> utf8(raw);
    ERR_clear_error();
    if (n < 0) {
        return base::fail(EINVAL, "a common name that cannot be read");
    }
    return name_list(n > 0 && n <= name_bytes_max, std::string(reinterpret_cast<const char*>(raw), size_t(n)));
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
    const unsigned char* at = der.data();
    const certificate_ptr c(d2i_X509(nullptr, &at, long(der.size())));
    ERR_clear_error();
    if (!c || at != der.data() + der.size()) {
        return base::fail(EINVAL, "a certificate that cannot be read");
    }
    auto found = dns_names(c.get());
    if (found && found->empty()) {
        found = common_name(c.get());
    }
    if (found && std::ranges::any_of(*found, ends_early)) {
        return base::fail(EINVAL, "a name with a NUL in it");
    }
    return found;
}

std::string identity_of(std::span<const uint8_t> der, std::span<const std::string> names) {
    if (!names.empty()) {
        return base::printable(names.front().data(), names.front().size());
    }
    std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
    if (EVP_Q_digest(nullptr, "SHA256", nullptr, der.data(), der.size(), digest.data(), nullptr) != 1) {
        return {};
    }
    std::string out = "sha256:";
    for (unsigned char c : digest) {
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
