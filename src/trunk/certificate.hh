// Whom a peer's certificate names. OpenSSL parses it; nothing here looks into a printed subject, where a value that
// somebody chose can look like another field. The chain is not judged here: TLS has done that. Any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hh"

namespace vmsgr::trunk {

// The dnsName entries of the subject alternative name; where there are none, the one common name of the subject. None
// for a certificate without either, and for one with several common names, of which nobody can say which is meant.
base::result<std::vector<std::string>> names_of_certificate(std::span<const uint8_t> der);

// What tells its owner from all others, also after it was renewed: its first name, or for one without names its
// fingerprint. Empty: OpenSSL cannot.
std::string identity_of(std::span<const uint8_t> der, std::span<const std::string> names);

// See base::same_name.
bool is_one_of(std::string_view name, std::span<const std::string> names) noexcept;

// Is a peer with these names the one that is wanted? `wanted`: the peer that was dialled, empty where none was named.
// `allowed`: trunk.tls.names, empty for all. Empty, or why not.
std::string misfit(std::span<const std::string> names, std::string_view wanted, std::span<const std::string> allowed);

}  // namespace vmsgr::trunk
