// vmsgr doctor PROGRAM: what of its connections will stay plain, why, and what to do, before it starts.
#include <cstdio>
#include <memory>
#include <optional>

#include "cli/checkup.hh"
#include "cli/cli.hh"
#include "cli/decide.hh"
#include "cli/document.hh"
#include "cli/query.hh"
#include "cli/stats.hh"
#include "conf/config.hh"
#include "conf/words.hh"
#include "vmsgr/vmsgr.hh"

namespace vmsgr::cli {

namespace {

constexpr size_t columns = 80;

struct doctor_options {
    std::string routes_file, to;
    std::vector<std::string> shown;
};

// Breaks a text at spaces; the lines after the first are indented.
std::string wrapped(std::string_view text, size_t indent) {
    std::string out;
    size_t width = indent;
    while (!text.empty()) {
        const auto word = text.substr(0, text.find(' '));
        text.remove_prefix(std::min(word.size() + 1, text.size()));
        if (width + 1 + word.size() > columns && width > indent) {
            out += "\n" + std::string(indent, ' ');
            width = indent;
        } else if (width > indent) {
            out += ' ';
            ++width;
        }
        out += word;
        width += word.size();
    }
    return out;
}

// Whether it may attach: by doing it, under the program's name, for a moment.
void look_at_daemon(checkup& c, const options& o) {
    if (const auto can = can_answer(o.socket); !can) {
        c.add(weight::plain, "daemon", can.error().text, "see 'vmsgr status'");
        return;
    }
    if (auto session = vmsgr::session::open(o.socket.c_str(), c.name.c_str()); !session) {
        c.add(weight::plain, "daemon", session.error().text, "see 'vmsgr status'");
        return;
    }
    c.add(weight::fine, "daemon", "vmsgrd at " + o.socket + " lets this user attach");
}

std::string ways(const proto::route& r) {
    std::string text = "route " + conf::quote(r.name_text()) + ": ";
    text += r.who == proto::role::any      ? "connections and listeners"
            : r.who == proto::role::client ? "connections"
                                           : "listeners";
    const auto where = base::to_string(r.addresses);
    text += (r.who == proto::role::server ? " on " : " to ") + (where == "*" ? "any address" : where);
    text += ", ports " + ports_text(r) + ": " + std::string(proto::to_text(r.way));
    if (r.way == proto::via::local) {
        text += ", memory to memory on this host, TCP to others";
    } else if (r.carries()) {
        text += r.local ? ", memory to memory on this host" : ", never memory to memory";
    }
    return text + (r.carries() && r.without_daemon == proto::fallback::fail ? "; fails without vmsgrd" : "");
}

void look_at_address(checkup& c, const proto::route_table& t, const base::address& to) {
    const auto* r = t.match(c.name, proto::role::client, to);
    const bool carried = r != nullptr && r->carries();
    const std::string where = "a connection to " + base::to_string(to);
    const std::string by = r == nullptr ? "no route matches" : "by route " + conf::quote(r->name_text());
    c.add(carried ? weight::fine : weight::plain, "address",
          where +
              (carried && r->way == proto::via::local       ? " is carried if a program of this daemon listens there, "
               : carried                                    ? " is carried, "
               : r != nullptr && r->way == proto::via::deny ? " is refused, "
                                                            : " stays plain, ") +
              by + (carried ? ", via " + std::string(proto::to_text(r->way)) : ""),
          carried ? "" : "see 'vmsgr routes test --verbose --program " + c.name + " " + base::to_string(to) + "'");
}

void look_at_routes(checkup& c, const proto::route_table& t, const std::optional<base::address>& to) {
    if (!t.concerns(c.name)) {
        c.add(weight::plain, "routes", "no route is for a program named " + conf::quote(c.name),
              "add a route for it, or for program '*'; see vmsgrd(8)");
        return;
    }
    for (const auto& r : t) {
        if (r.matches_program(c.name)) {
            c.add(weight::fine, "route", ways(r));
        }
    }
    if (to) {
        look_at_address(c, t, *to);
    }
}

void print(const checkup& c) {
    const bool all = c.all_carried();
    const std::string head = c.path + (c.program != c.path ? ", run by " + c.program : "") + ", for routes " +
                             conf::quote(c.name) + ": " +
                             (all ? "what the routes name is carried" : "not all that the routes name is carried");
    printf("%s\n", wrapped(head, 0).c_str());
    constexpr size_t indent = 20;
    for (auto how : {weight::plain, weight::maybe, weight::hint, weight::fine}) {
        for (const auto& f : c.findings) {
            if (f.how != how) {
                continue;
            }
            printf("  %-6s%-12s%s\n", std::string(to_text(how)).c_str(), f.topic.c_str(),
                   wrapped(f.text, indent).c_str());
            if (!f.remedy.empty()) {
                printf("%*s%s\n", int(indent), "", wrapped("To do: " + f.remedy, indent).c_str());
            }
        }
    }
}

json as_json(const checkup& c) {
    json findings = json::array();
    for (const auto& f : c.findings) {
        findings.push_back({{"weight", to_text(f.how)},
                            {"topic", f.topic},
                            {"text", f.text},
                            {"remedy", f.remedy.empty() ? json() : json(f.remedy)}});
    }
    return {{"path", c.path},
            {"program", c.program},
            {"name", c.name},
            {"all_carried", c.all_carried()},
            {"findings", findings}};
}

int run_doctor(const options& o, const doctor_options& d, const std::vector<std::string>& program) {
    if (program.empty()) {
        return say_error(exit_usage, "doctor: no program given; write 'vmsgr doctor PROGRAM'");
    }
    std::optional<base::address> to;
    if (!d.to.empty() && !(to = base::parse_address(d.to))) {
        return say_error(exit_usage, "doctor: --to: " + conf::quote(d.to) + " is not an address such as 10.0.0.1:6800");
    }
    auto c = examine(program.front());
    if (!c) {
        return say_error(exit_usage, "doctor: " + c.error().text);
    }
    look_at_daemon(*c, o);
    const bool reached = c->findings.back().how == weight::fine;
    if (reached || !d.routes_file.empty()) {
        auto t = d.routes_file.empty() ? ask_routes(o.socket) : conf::load_routes(d.routes_file);
        if (!t) {
            return say_error(exit_usage, "doctor: " + t.error().text);
        }
        look_at_routes(*c, *t, to);
    }
    if (o.json) {
        put_json(as_json(*c));
    } else {
        print(*c);
    }
    return c->all_carried() ? exit_ok : exit_failure;
}

}  // namespace

command add_doctor(CLI::App& app, const options& o, const std::vector<std::string>& program) {
    auto d = std::make_shared<doctor_options>();
    app.add_option("--routes", d->routes_file, "routes from this file, not from the daemon")->type_name("FILE");
    app.add_option("--to", d->to, "also what becomes of a connection to this address")->type_name("ADDR");
    // For the help text only: main.cc has cut the program off.
    app.add_option("PROGRAM", d->shown, "as for 'vmsgr run'; it is not started")->type_name("ARGS");
    app.footer("Looks at the file, at the libraries that the dynamic linker would load with it, at the\n"
               "daemon and its routes. What a program loads later (plug-ins) is not looked at.\n"
               "Exit codes: 0 all is carried, 1 something will or may be plain, 2 it cannot be told.\n\n"
               "Examples:\n  vmsgr doctor ceph-osd\n  vmsgr doctor --to 10.0.0.1:6379 redis-cli");
    return {[&o, &program, d] { return run_doctor(o, *d, program); }};
}

}  // namespace vmsgr::cli
