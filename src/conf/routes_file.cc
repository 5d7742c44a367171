#include "conf/routes_file.hh"

#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <charconv>

#include "conf/words.hh"

namespace vmsgr::conf {

namespace {

constexpr std::string_view role_words[] = {"client", "server", "any"};
constexpr std::string_view via_words[] = {"posix", "local", "direct", "trunk", "deny"};
constexpr std::string_view fallback_words[] = {"posix", "fail"};
constexpr std::string_view local_words[] = {"no", "yes"};
constexpr std::string_view without_words[] = {"wait", "fail", "direct"};

template <size_t N>
void copy_word(std::array<char, N>& to, std::string_view from) {
    to.fill(0);
    memcpy(to.data(), from.data(), std::min(from.size(), N - 1));
}

// A name or a program glob.
template <size_t N>
void read_word(reader& r, const spot& at, std::array<char, N>& out, std::string_view what) {
    auto text = r.scalar(at, what);
    if (!text) {
        return;
    }
    if (proto::valid_word(*text, N)) {
        copy_word(out, *text);
    } else if (text->empty()) {
        r.refuse(at, "is empty, expected " + std::string(what));
    } else if (text->size() >= N) {
        r.refuse(at, quote(*text) + " has " + std::to_string(text->size()) + " characters, at most " +
                         std::to_string(N - 1) + " are allowed");
    } else {
        r.refuse(at, quote(*text) + " holds a space, ';' or control character, expected " + std::string(what));
    }
}

void read_program(reader& r, const spot& at, proto::route& out) {
    read_word(r, at, out.program, "a program's name such as \"ceph-osd\" or \"redis-*\"");
    auto text = out.program_text();
    if (auto slash = text.rfind('/'); !r.failed() && slash != text.npos) {
        r.refuse(at, quote(text) + " is a path; routes match names, write " + quote(text.substr(slash + 1)));
    }
}

bool clear_host_bits(base::prefix& p) {
    base::prefix before = p;
    for (unsigned bit = p.bits; bit < 128; ++bit) {
        p.ip[bit / 8] &= uint8_t(~(0x80u >> (bit % 8)));
    }
    return p != before;
}

void read_address(reader& r, const spot& at, proto::route& out) {
    constexpr std::string_view expected = "a prefix such as 10.0.0.0/8, fd00::/8 or a whole address";
    auto text = r.scalar(at, expected);
    if (!text) {
        return;
    }
    auto p = base::parse_prefix(*text);
    if (!p) {
        auto bare = base::parse_prefix(std::string_view(*text).substr(0, text->find('/')));
        std::string why = "is not " + std::string(expected);
        if (text->find('/') != text->npos && bare && bare->family != 0) {
            why = "has a bad prefix length; expected 0 to " + std::to_string(bare->bits);
        } else if (auto a = base::parse_address(*text); a && a->port != 0) {
            why += "; ports have their own key, 'ports'";
        }
        r.refuse(at, quote(*text) + " " + why);
        return;
    }
    if (clear_host_bits(*p)) {
        r.refuse(at, quote(*text) + " has bits set beyond its prefix; write " + base::to_string(*p) +
                         " for the network, or " + text->substr(0, text->find('/')) + " for the one address");
        return;
    }
    out.addresses = *p;
}

bool parse_port(std::string_view text, unsigned& out) {
    auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), out);
    return ec == std::errc{} && end == text.data() + text.size();
}

void read_ports(reader& r, const spot& at, proto::route& out) {
    constexpr std::string_view expected = "a port or a range such as 6800-7300";
    auto text = r.scalar(at, expected);
    if (!text) {
        return;
    }
    auto dash = text->find('-');
    std::string_view whole = *text;
    std::string_view low = whole.substr(0, dash), high = dash == whole.npos ? low : whole.substr(dash + 1);
    unsigned first = 0, last = 0;
    if (!parse_port(low, first) || !parse_port(high, last)) {
        r.refuse(at, quote(*text) + " is not " + std::string(expected));
    } else if (first > 65535 || last > 65535) {
        r.refuse(at, quote(*text) + ": ports end at 65535");
    } else if (first > last) {
        r.refuse(at,
                 quote(*text) + " ends before it begins; write " + std::to_string(last) + "-" + std::to_string(first));
    } else {
        out.port_first = uint16_t(first);
        out.port_last = uint16_t(last);
    }
}

void read_via(reader& r, const spot& at, proto::route& out) {
    if (auto i = r.word(at, via_words)) {
        out.way = *proto::parse_via(via_words[*i]);
    }
}

// `said`: it has a fallback of its own.
void read_route(reader& r, const spot& at, proto::route& out, bool& said) {
    bool named = false, directed = false;
    bool fine = r.mapping(at, {
                                  {"name",
                                   [&](const spot& s) {
                                       named = true;
                                       read_word(r, s, out.name, "a name without spaces");
                                   }},
                                  {"program", [&](const spot& s) { read_program(r, s, out); }},
                                  {"role",
                                   [&](const spot& s) {
                                       if (auto i = r.word(s, role_words)) {
                                           out.who = *proto::parse_role(role_words[*i]);
                                       }
                                   }},
                                  {"address", [&](const spot& s) { read_address(r, s, out); }},
                                  {"ports", [&](const spot& s) { read_ports(r, s, out); }},
                                  {"via",
                                   [&](const spot& s) {
                                       directed = true;
                                       read_via(r, s, out);
                                   }},
                                  {"fallback",
                                   [&](const spot& s) {
                                       said = true;
                                       if (auto i = r.word(s, fallback_words)) {
                                           out.without_daemon = *proto::parse_fallback(fallback_words[*i]);
                                       }
                                   }},
                                  {"without_trunk",
                                   [&](const spot& s) {
                                       if (auto i = r.word(s, without_words)) {
                                           out.without_trunk = *proto::parse_without_trunk(without_words[*i]);
                                       }
                                   }},
                                  {"local",
                                   [&](const spot& s) {
                                       if (auto i = r.word(s, local_words)) {
                                           out.local = *i == 1;
                                       }
                                   }},
                              });
    if (fine && !named) {
        r.refuse(at, "'name' is missing; every route has one, so that it can be spoken of");
    } else if (fine && !directed) {
        r.refuse(at, "'via' is missing; expected one of " + listed(via_words));
    } else if (fine && out.without_trunk != proto::without_trunk::unset && out.way != proto::via::trunk) {
        r.refuse(at, "'without_trunk' is for routes with via: trunk; this one has via: " +
                         std::string(proto::to_text(out.way)));
    } else if (fine && out.way == proto::via::local && !out.local) {
        r.refuse(at, "via: local and local: no leave nothing to carry; write via: posix");
    } else if (fine && out.way == proto::via::local && out.without_daemon == proto::fallback::fail) {
        r.refuse(at, "fallback: fail is for routes that carry everything; via: local leaves other hosts to TCP");
    }
}

}  // namespace

void read_routes(reader& r, const spot& at, proto::route_table& out, fallback_said& said) {
    out = {};
    r.list(at, "a list of routes", [&](const spot& s) {
        if (out.count == proto::routes_max) {
            r.refuse(s, "is one route too many; " + std::to_string(proto::routes_max) + " are allowed");
            return;
        }
        proto::route& added = out.routes[out.count];
        bool own_fallback = false;
        read_route(r, s, added, own_fallback);
        said[out.count] = own_fallback;
        auto same = std::ranges::find(out.begin(), out.end(), added.name_text(), &proto::route::name_text);
        if (!r.failed() && same != out.end()) {
            r.refuse(s, "name " + quote(added.name_text()) + " is taken by routes[" +
                            std::to_string(same - out.begin()) + "]; give it another");
            return;
        }
        ++out.count;
    });
}

void complete_routes(proto::route_table& t, const fallback_said& said, bool tls) {
    for (uint32_t i = 0; i < t.count; ++i) {
        auto& r = t.routes[i];
        if (tls && r.way == proto::via::trunk && r.without_trunk == proto::without_trunk::unset) {
            r.without_trunk = proto::without_trunk::wait;
        }
        if (r.only_by_trunk() && !said[i]) {
            r.without_daemon = proto::fallback::fail;
        }
    }
}

}  // namespace vmsgr::conf
