// vmsgr ceph enable, vmsgr ceph disable: OSDs start under `vmsgr run`, or without it again, one after the other. After
// each the cluster has to be as well as before, or that OSD goes back and nothing more is changed.
#include <errno.h>
#include <string.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "base/clock.hh"
#include "cli/ceph.hh"
#include "cli/query.hh"
#include "cli/spawned.hh"

namespace vmsgr::cli {

namespace {

namespace fs = std::filesystem;

constexpr auto between_looks = std::chrono::seconds(1);

class switching {
    const options& _o;
    const ceph_options& _c;
    const ceph_cluster _cluster;

public:
    switching(const options& o, const ceph_options& c) : _o(o), _c(c), _cluster(c.command) {}

    base::result<ceph_health> health() const { return _cluster.health(); }

    // Error: it is as it was, or the text says what could not be put back.
    base::result<void> turn(int osd, bool on, const ceph_health& before) const {
        if (is_on(osd) == on) {
            printf("osd.%d: %s already\n", osd, on ? "enabled" : "disabled");
            return {};
        }
        if (auto may = wait_for(osd, [&] { return _cluster.may_stop(osd); }); !may) {
            return base::fail(EBUSY, "it was not stopped: " + may.error().text);
        }
        auto done = change(osd, on).and_then([&] { return settle(osd, on, before); });
        if (done) {
            printf("osd.%d: %s\n", osd, on ? "enabled" : "disabled");
            fflush(stdout);
            return done;
        }
        std::string text = done.error().text;
        if (auto back = change(osd, !on).and_then([&] { return settle(osd, !on, before); }); !back) {
            return base::fail(EIO, text + "; it was put back, and then: " + back.error().text);
        }
        return base::fail(EIO, text + "; it was put back and is well");
    }

private:
    fs::path link_of(int osd) const {
        return fs::path(_c.units) / ("ceph-osd@" + std::to_string(osd) + ".service.d") / "vmsgr.conf";
    }
    bool is_on(int osd) const {
        std::error_code ec;
        return fs::exists(fs::symlink_status(link_of(osd), ec));
    }

    base::result<void> change(int osd, bool on) const {
        const auto link = link_of(osd);
        std::error_code ec;
        if (on) {
            fs::create_directories(link.parent_path(), ec);
            if (!ec) {
                fs::create_symlink(_c.drop_in, link, ec);
            }
        } else {
            fs::remove(link, ec);
            std::error_code not_empty;
            fs::remove(link.parent_path(), not_empty);
        }
        if (ec) {
            return base::fail(ec.value(), link.string() + ": " + ec.message());
        }
        return restart(osd);
    }

    base::result<void> restart(int osd) const {
        const std::string words = "OSD=" + std::to_string(osd) + "; " + _c.restart;
        const auto done = run_to_end({"/bin/sh", "-c", words}, int(_c.timeout_s) * 1000);
        if (!done) {
            return std::unexpected(done.error());
        }
        if (!done->succeeded()) {
            return base::fail(EIO, "'" + _c.restart + "' " + (done->in_time ? "failed: " : "took too long: ") +
                                       done->last_error_line());
        }
        return {};
    }

    // Until it is up again, attached or not as it should be, and the cluster as well as before; and that for a while.
    base::result<void> settle(int osd, bool on, const ceph_health& before) const {
        if (auto well = wait_for(osd, [&] { return look(osd, on, before); }); !well) {
            return well;
        }
        for (const base::deadline until(int64_t(_c.watch_s) * 1000); until.left_ms() > 0;) {
            std::this_thread::sleep_for(between_looks);
            if (!local_osds().contains(osd)) {
                return base::fail(ESRCH,
                                  "it has ended again; see 'journalctl -u ceph-osd@" + std::to_string(osd) + "'");
            }
        }
        return look(osd, on, before);
    }

    base::result<void> look(int osd, bool on, const ceph_health& before) const {
        const auto processes = local_osds();
        const auto at = processes.find(osd);
        if (at == processes.end()) {
            return base::fail(ESRCH, "it does not run; see 'journalctl -u ceph-osd@" + std::to_string(osd) + "'");
        }
        const auto all = _cluster.osds();
        const auto now = all ? _cluster.health() : std::unexpected(all.error());
        if (!now) {
            return std::unexpected(now.error());
        }
        const auto self = std::ranges::find(*all, osd, &ceph_osd::id);
        if (self == all->end() || !self->up) {
            return base::fail(EAGAIN, "the monitors do not see it up");
        }
        if (auto worse = now->worse_than(before); !worse.empty()) {
            return base::fail(EAGAIN, worse);
        }
        return on ? attached(at->second) : base::result<void>();
    }

    base::result<void> attached(pid_t pid) const {
        const auto doc = ask_status(_o.socket, true);
        if (!doc) {
            return std::unexpected(doc.error());
        }
        if (is_attached(*doc, pid)) {
            return {};
        }
        return base::fail(EAGAIN, "it runs without VMSGR; see 'vmsgr explain " + std::to_string(pid) + "'");
    }

    // What it waits for goes to stderr, when it changes.
    template <typename Look>
    base::result<void> wait_for(int osd, Look&& look_once) const {
        std::string said;
        for (const base::deadline until(int64_t(_c.timeout_s) * 1000);;) {
            auto found = look_once();
            if (found || until.left_ms() == 0) {
                return found;
            }
            if (said != found.error().text) {
                said = found.error().text;
                fprintf(stderr, "osd.%d: waiting: %s\n", osd, said.c_str());
            }
            std::this_thread::sleep_for(between_looks);
        }
    }
};

}  // namespace

std::map<int, pid_t> chosen_osds(const ceph_options& c) {
    const auto here = local_osds();
    std::map<int, pid_t> out = c.all || c.osds.empty() ? here : std::map<int, pid_t>{};
    for (int id : c.osds) {
        const auto at = here.find(id);
        if (at == here.end()) {
            say_error(exit_failure, "ceph: osd." + std::to_string(id) + " does not run on this host");
            return {};
        }
        out.insert(*at);
    }
    if (out.empty()) {
        say_error(exit_failure, "ceph: no ceph-osd runs on this host");
    }
    return out;
}

int run_ceph_switch(const options& o, const ceph_options& c, bool on) {
    const std::string name = on ? "ceph enable: " : "ceph disable: ";
    if (c.osds.empty() && !c.all) {
        return say_error(exit_usage, name + "which OSDs? Name them with --osd N, or --all of this host");
    }
    if (std::error_code ec; on && !fs::exists(c.drop_in, ec)) {
        return say_error(exit_failure,
                         name + c.drop_in + " is not there; install vmsgr-ceph, or name it with --drop-in");
    }
    if (on) {
        const auto routes = ask_routes(o.socket);
        if (!routes) {
            return say_error(exit_no_daemon, name + routes.error().text);
        }
        if (!routes->concerns("ceph-osd")) {
            return say_error(exit_failure, name + "no route of vmsgrd is for ceph-osd; see 'vmsgr ceph plan'");
        }
    }
    const auto osds = chosen_osds(c);
    if (osds.empty()) {
        return exit_failure;
    }
    const switching s(o, c);
    const auto before = s.health();
    if (!before) {
        return say_error(exit_failure, name + before.error().text);
    }
    size_t done = 0;
    for (const auto& [id, pid] : osds) {
        if (auto turned = s.turn(id, on, *before); !turned) {
            return say_error(exit_failure, name + "osd." + std::to_string(id) + ": " + turned.error().text + "; " +
                                               std::to_string(osds.size() - done - 1) + " others were not touched");
        }
        ++done;
    }
    return exit_ok;
}

}  // namespace vmsgr::cli
