#include "trunks/credentials.hh"

#include <time.h>

#include <array>
#include <system_error>

#include <seastar/core/coroutine.hh>
#include <seastar/core/seastar.hh>
#include <seastar/util/file.hh>

#include "trunk/certificate.hh"
#include "trunks/log.hh"

namespace vmsgr::trunks {

std::optional<trunk::refusal> refusal_of(const std::exception_ptr& e) noexcept {
    try {
        std::rethrow_exception(e);
    } catch (const wrong_peer&) {
        return trunk::refusal::name;
    } catch (const tls_error&) {
        return trunk::refusal::certificate;
    } catch (...) {
        return std::nullopt;
    }
}

namespace {

// What tells a file from the one that was there before. The time of modification: Seastar's opening sets an attribute,
// which counts as a change.
struct stamp {
    uint64_t inode = 0, bytes = 0;
    std::chrono::system_clock::time_point modified{};
    bool operator==(const stamp&) const = default;
};
using stamps = std::array<stamp, 4>;

std::array<const std::string*, 4> paths(const conf::trunk_tls& f) { return {&f.ca, &f.certificate, &f.key, &f.crl}; }

seastar::future<stamps> look(const conf::trunk_tls& files) {
    stamps out;
    for (size_t i = 0; const auto* path : paths(files)) {
        if (!path->empty()) {
            const auto s = co_await seastar::file_stat(*path);
            out[i] = {s.inode_number, s.size, s.time_modified};
        }
        ++i;
    }
    co_return out;
}

seastar::future<std::string> text_of(const std::string& path) {
    const auto text = co_await seastar::util::read_entire_file_contiguous(std::filesystem::path(path));
    co_return std::string(text.data(), text.size());
}

seastar::future<std::shared_ptr<const tls_context>> read(const conf::trunk_tls& files) {
    tls_texts t;
    t.ca = co_await text_of(files.ca);
    t.certificate = co_await text_of(files.certificate);
    t.key = co_await text_of(files.key);
    if (!files.crl.empty()) {
        t.crl = co_await text_of(files.crl);
    }
    t.rekey_bytes = files.rekey_bytes;
    co_return std::make_shared<const tls_context>(t);
}

}  // namespace

struct credentials::loaded {
    const conf::trunk_tls files;
    std::shared_ptr<const tls_context> context;
    stamps seen{};  // those of `context`
    stamps last{};  // of the look before this one
    std::string trouble{};  // of the look before this one
};

credentials::credentials() = default;
credentials::~credentials() = default;

seastar::future<> credentials::load(const conf::trunk_tls& files) {
    const auto of = std::make_shared<loaded>(files);
    of->seen = of->last = co_await look(files);
    of->context = co_await read(files);
    _loaded = of;
}

// A file that is being replaced is read a look later: when it has stayed the same.
seastar::future<bool> credentials::look_again() {
    const auto of = _loaded;
    std::string trouble;
    bool changed = false;
    try {
        const stamps now = co_await look(of->files);
        if (now == std::exchange(of->last, now) && now != of->seen) {
            of->context = co_await read(of->files);
            of->seen = now;
            changed = of == _loaded;
            log.info("certificates of trunks were read again; peers are judged anew");
        } else if (of->context->lists_end() < ::time(nullptr)) {
            trouble = "a list of trunk.tls.crl is older than it says that it may become; what it revokes stays revoked";
        }
    } catch (const std::bad_alloc&) {
        throw;
    } catch (const std::exception& e) {
        trouble = std::string(e.what()) + "; the ones read before stay in use";
    }
    if (!trouble.empty() && trouble != of->trouble) {
        log.error("certificates of trunks: {}", trouble);
    }
    of->trouble = std::move(trouble);
    co_return changed;
}

seastar::future<credentials::secured> credentials::secure(seastar::pollable_fd fd, const link_role& role) {
    secured out;
    const auto context = _loaded->context;
    out.session = std::make_shared<tls_session>(context, std::move(fd), role.dials);
    co_await out.session->shake_hands();
    if (context != _loaded->context) {
        throw std::system_error(EAGAIN, std::generic_category(), "certificates were read again during the handshake");
    }
    const auto der = out.session->peer_certificate();
    auto names = trunk::names_of_certificate(der);
    if (!names) {
        throw tls_error("the peer's certificate: " + std::string(names.error().text.view()));
    }
    if (out.identity = trunk::identity_of(der, *names); out.identity.empty()) {
        throw tls_error("the peer's certificate has no name, and its fingerprint cannot be computed");
    }
    if (auto why = trunk::misfit(*names, role.wanted, _loaded->files.names); !why.empty()) {
        co_await out.session->close();
        throw wrong_peer(why);
    }
    out.names = std::move(*names);
    co_return out;
}

}  // namespace vmsgr::trunks
