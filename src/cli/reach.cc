#include "cli/reach.hh"

#include "base/address.hh"
#include "conf/words.hh"

namespace vmsgr::cli {

base::result<vmsgr::address> parse_endpoint(const std::string& text, bool port_zero) {
    auto parsed = base::parse_address(text.starts_with(':') ? "127.0.0.1" + text : text);
    const bool has_port = text.ends_with(":0") || (parsed && parsed->port != 0);
    if (!parsed || !has_port || (parsed->port == 0 && !port_zero)) {
        return base::fail(EINVAL, conf::quote(text) + " is no " + endpoint_help +
                                      (parsed && parsed->port == 0 && has_port ? " (port 0 is for listening)" : ""));
    }
    vmsgr::address a;
    a.length = base::to_sockaddr(*parsed, a.storage);
    return a;
}

std::string endpoint_text(const vmsgr::address& a) {
    auto parsed = base::from_sockaddr(a.get(), a.length);
    return parsed ? base::to_string(*parsed) : "-";
}

std::expected<vmsgr::session, int> open_session(const options& o) {
    auto s = vmsgr::session::open(o.socket.c_str(), "vmsgr");
    if (!s) {
        return std::unexpected(say_error(exit_no_daemon, s.error().text + "; or name its socket with --socket"));
    }
    return std::move(*s);
}

std::string reason(const vmsgr::channel& c, std::error_code e) {
    auto why = c.why();
    return why ? why->text : e.message();
}

}  // namespace vmsgr::cli
