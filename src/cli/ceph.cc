// vmsgr ceph: OSDs of this host on VMSGR, and off it again.
#include "cli/ceph.hh"

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <memory>

namespace vmsgr::cli {

namespace {

void add_cluster(CLI::App& app, ceph_options& c) {
    app.add_option("--ceph", c.command, "how to ask the cluster; 'ceph' unless told otherwise")->type_name("WORDS");
}

void add_osds(CLI::App& app, ceph_options& c) {
    app.add_option("--osd", c.osds, "this OSD; may be given again")->type_name("N")->check(CLI::Range(0, 1 << 20));
    app.add_flag("--all", c.all, "each OSD of this host, in the order of their numbers");
}

void add_switch(CLI::App& app, ceph_options& c) {
    add_osds(app, c);
    add_cluster(app, c);
    app.add_option("--units", c.units, "systemd's folder for drop-ins; default /etc/systemd/system")->type_name("DIR");
    app.add_option("--restart", c.restart, "how an OSD is restarted, for sh; $OSD is its number")->type_name("COMMAND");
    app.add_option("--timeout", c.timeout_s, "s until the cluster has to be well again; default 300")
        ->type_name("S")
        ->check(CLI::Range(1, 86400));
    app.add_option("--watch", c.watch_s, "s for which it has to stay so; default 10")
        ->type_name("S")
        ->check(CLI::Range(0, 86400));
}

int write_plan(const ceph_options& c) {
    const ceph_cluster cluster(c.command);
    auto osds = cluster.osds();
    const auto named = osds ? cluster.name_hosts(*osds) : std::unexpected(osds.error());
    auto monitors = named ? cluster.monitors() : std::unexpected(named.error());
    auto ports = monitors ? cluster.ports(*osds) : std::unexpected(monitors.error());
    if (!ports) {
        return say_error(exit_failure, "ceph plan: " + ports.error().text);
    }
    char name[256] = "";
    ::gethostname(name, sizeof name - 1);
    const auto text = ceph_plan({std::move(*osds), std::move(*monitors), *ports, local_addresses(), name}, c);
    if (!text) {
        return say_error(exit_failure, "ceph plan: " + text.error().text);
    }
    if (c.output.empty()) {
        fputs(text->c_str(), stdout);
        return exit_ok;
    }
    std::ofstream out(c.output);
    out << *text;
    out.close();
    return out ? int(exit_ok) : say_error(exit_failure, "ceph plan: cannot write " + c.output);
}

}  // namespace

command add_ceph(CLI::App& app, const options& o) {
    auto c = std::make_shared<ceph_options>();
    app.require_subcommand(0, 1);
    auto* plan = app.add_subcommand("plan", "the routes for this host, from the cluster's maps");
    add_cluster(*plan, *c);
    plan->add_option("--between", c->between, "how OSDs of other hosts are reached; posix unless told otherwise")
        ->check(CLI::IsMember({"posix", "direct", "trunk"}));
    plan->add_option("--trunk-port", c->trunk_port, "of the daemons of all hosts; default 6790")
        ->type_name("PORT")
        ->check(CLI::Range(1, 65535));
    plan->add_option("-o,--output", c->output, "write there")->type_name("FILE");
    plan->footer("Examples:\n  vmsgr ceph plan -o /etc/vmsgr/vmsgrd.yaml && systemctl reload vmsgrd\n"
                 "  vmsgr ceph plan --ceph 'cephadm shell -- ceph' --between trunk");
    auto* enable = app.add_subcommand("enable", "restart OSDs with their connections carried");
    add_switch(*enable, *c);
    enable->add_option("--drop-in", c->drop_in, "what they get; default the one of the package vmsgr-ceph")
        ->type_name("FILE");
    enable->footer("The first is the canary. An OSD is stopped only where the cluster can do without it ('ceph osd\n"
                   "ok-to-stop'). When the cluster is not as well as before within --timeout, that OSD goes back to\n"
                   "plain sockets, and the others are left alone.\n\nExamples:\n  vmsgr ceph enable --osd 3\n"
                   "  vmsgr ceph enable --all");
    auto* disable = app.add_subcommand("disable", "restart OSDs on plain sockets");
    add_switch(*disable, *c);
    disable->footer("Examples:\n  vmsgr ceph disable --all");
    auto* verify = app.add_subcommand("verify", "where each connection of this host's OSDs is");
    add_osds(*verify, *c);
    add_cluster(*verify, *c);
    verify->footer("Monitors have to be on the kernel's sockets, and what the daemon's routes name has to be carried.\n"
                   "Exit codes: 0 all is as the routes say, 1 it is not.\n\nExamples:\n  vmsgr ceph verify");
    app.footer("Examples:\n  vmsgr ceph plan\n  vmsgr ceph enable --osd 3\n  vmsgr ceph verify\n"
               "  vmsgr ceph disable --all");
    return {[=, &o, &app] {
        if (plan->parsed()) {
            return write_plan(*c);
        }
        if (verify->parsed()) {
            return run_ceph_verify(o, *c);
        }
        if (enable->parsed() || disable->parsed()) {
            return run_ceph_switch(o, *c, enable->parsed());
        }
        return say_error(exit_usage,
                         "ceph: plan, enable, verify or disable? See 'vmsgr " + app.get_name() + " --help'");
    }};
}

}  // namespace vmsgr::cli
