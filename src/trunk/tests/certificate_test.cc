#include "trunk/certificate.hh"

#include <gnutls/x509.h>
#include <gtest/gtest.h>

#include <ctime>

namespace vmsgr::trunk {
namespace {

using strings = std::vector<std::string>;
using bytes = std::vector<uint8_t>;

struct alt_name {
    gnutls_x509_subject_alt_name_t type;
    std::string value;
};

// A certificate that signs itself; each field is an OID and its value.
bytes make(const std::vector<std::pair<const char*, std::string>>& subject, const std::vector<alt_name>& alt = {}) {
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t c;
    gnutls_x509_privkey_init(&key);
    EXPECT_EQ(gnutls_x509_privkey_generate(key, GNUTLS_PK_EDDSA_ED25519, 0, 0), 0);
    gnutls_x509_crt_init(&c);
    gnutls_x509_crt_set_version(c, 3);
    gnutls_x509_crt_set_serial(c, "\1", 1);
    gnutls_x509_crt_set_activation_time(c, time(nullptr));
    gnutls_x509_crt_set_expiration_time(c, time(nullptr) + 3600);
    for (auto& [oid, value] : subject) {
        EXPECT_EQ(gnutls_x509_crt_set_dn_by_oid(c, oid, 0, value.data(), unsigned(value.size())), 0);
    }
    for (auto& a : alt) {
        EXPECT_EQ(gnutls_x509_crt_set_subject_alt_name(c, a.type, a.value.data(), unsigned(a.value.size()),
                                                       GNUTLS_FSAN_APPEND), 0);
    }
    gnutls_x509_crt_set_key(c, key);
    EXPECT_EQ(gnutls_x509_crt_sign2(c, c, key, GNUTLS_DIG_SHA512, 0), 0);
    gnutls_datum_t der{};
    EXPECT_EQ(gnutls_x509_crt_export2(c, GNUTLS_X509_FMT_DER, &der), 0);
    bytes out(der.data, der.data + der.size);
    gnutls_free(der.data);
    gnutls_x509_crt_deinit(c);
    gnutls_x509_privkey_deinit(key);
    return out;
}

constexpr const char* cn = GNUTLS_OID_X520_COMMON_NAME;
constexpr const char* o = GNUTLS_OID_X520_ORGANIZATION_NAME;

strings names_of(const bytes& der) { return names_of_certificate(der).value_or(strings{"(unreadable)"}); }

TEST(certificate, the_common_name_counts_where_there_is_no_other) {
    EXPECT_EQ(names_of(make({{o, "company"}, {cn, "host-a"}})), strings{"host-a"});
    EXPECT_EQ(names_of(make({{cn, "host-a"}}, {{GNUTLS_SAN_RFC822NAME, "host-b@example.org"}})), strings{"host-a"});
}

TEST(certificate, a_field_that_looks_like_a_common_name_is_none) {
    for (const char* value : {"x\\,CN=host-b", "x,CN=host-b", "CN=host-b", "x+CN=host-b", "x\nCN=host-b"}) {
        EXPECT_EQ(names_of(make({{o, value}, {cn, "evil"}})), strings{"evil"}) << value;
        EXPECT_EQ(names_of(make({{o, value}})), strings{}) << value;
    }
    EXPECT_EQ(names_of(make({{o, "FOOCN=x"}, {cn, "host-a"}})), strings{"host-a"});
}

TEST(certificate, alternative_names_take_the_place_of_the_common_name) {
    auto der = make({{cn, "host-b"}}, {{GNUTLS_SAN_DNSNAME, "host-a"}, {GNUTLS_SAN_DNSNAME, "host-a.example.org"}});
    EXPECT_EQ(names_of(der), (strings{"host-a", "host-a.example.org"}));
}

TEST(certificate, nobody_is_named_where_it_is_not_clear_who) {
    EXPECT_EQ(names_of(make({{o, "company"}})), strings{});
    EXPECT_EQ(names_of(make({{cn, "host-a"}, {cn, "host-b"}})), strings{});
    EXPECT_FALSE(names_of_certificate(bytes{1, 2, 3}));
    EXPECT_FALSE(names_of_certificate({}));
    auto der = make({{cn, "host-a"}}, {{GNUTLS_SAN_DNSNAME, std::string(300, 'a')}});
    EXPECT_FALSE(names_of_certificate(der)) << "its common name is no substitute for a name that cannot be read";
}

TEST(certificate, a_name_does_not_end_at_a_nul) {
    auto names = names_of(make({{cn, std::string("host-b\0.evil.org", 16)}}));
    EXPECT_FALSE(is_one_of("host-b", names));
}

TEST(certificate, a_peer_must_be_the_one_that_was_dialled) {
    EXPECT_EQ(misfit(strings{"host-b"}, "host-b", {}), "");
    EXPECT_EQ(misfit(strings{"x", "Host-B"}, "host-b", {}), "");
    EXPECT_NE(misfit(strings{"host-c"}, "host-b", {}), "");
    EXPECT_NE(misfit(strings{"host-c"}, "host-b", strings{"host-b", "host-c"}), "");
    EXPECT_NE(misfit(strings{}, "host-b", {}), "");
    EXPECT_NE(misfit(strings{"*"}, "host-b", {}), "") << "no pattern";
}

TEST(certificate, the_list_of_names_holds_for_everybody) {
    EXPECT_EQ(misfit(strings{"host-a"}, "", {}), "");
    EXPECT_EQ(misfit(strings{}, "", {}), "");
    EXPECT_EQ(misfit(strings{"x", "host-a"}, "", strings{"host-a"}), "");
    EXPECT_NE(misfit(strings{"x"}, "", strings{"host-a"}), "");
    EXPECT_NE(misfit(strings{}, "", strings{"host-a"}), "");
    EXPECT_NE(misfit(strings{"host-b"}, "host-b", strings{"host-a"}), "");
    EXPECT_NE(misfit(strings{"evil\nname"}, "", strings{"host-a"}).find("evil?name"), std::string::npos);
}

}  // namespace
}  // namespace vmsgr::trunk
