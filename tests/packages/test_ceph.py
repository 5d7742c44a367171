"""What an operator does, from packages in to packages out, on a three-host Ceph cluster that works all the time."""
import json
import os
import re
import time

import pytest
from conftest import install, installed, newer
from deployed import Bench, Cluster
from lib import process

METRICS_PORT, PROMETHEUS_PORT = 9847, 9090
SCRAPE = f"""
global: {{scrape_interval: 1s}}
rule_files: [/usr/share/doc/vmsgr/examples/vmsgr.rules.yml]
scrape_configs:
  - job_name: vmsgr
    static_configs: [{{targets: ['127.0.0.1:{METRICS_PORT}']}}]
"""
WATCH = ["--watch", "2"]


@pytest.fixture(scope="module")
def machines(boot):
    return boot("host-a", "host-b", "host-c")


def test_packages_in_osds_over_seen_upgraded_back_and_packages_out(machines, debs):
    began = time.monotonic()

    def step(text):
        bench.check(text)
        print(f"{time.monotonic() - began:5.0f} s  {text}; second {bench.second()} of rados bench", flush=True)
    cluster = Cluster(machines, osds_each=2)
    bench = Bench(machines[0])
    step("cluster of six OSDs up, rados bench writes")
    for m in machines:
        install(m, debs)
        assert m.state("vmsgrd") == "active", m.journal("-u", "vmsgrd")
    step("packages in, vmsgrd runs")
    start_daemons(machines)
    step("routes and trunks planned, trunks up")
    for m in machines:
        numbers = cluster.osds_of(m)
        canary = m.run("vmsgr", "ceph", "enable", "--osd", numbers[0], *WATCH, timeout_s=400)
        assert f"osd.{numbers[0]}: enabled" in canary.stdout, canary
        m.run("vmsgr", "ceph", "verify", "--osd", numbers[0])
        rest = m.run("vmsgr", "ceph", "enable", "--all", *WATCH, timeout_s=800)
        assert f"osd.{numbers[0]}: enabled already" in rest.stdout and f"osd.{numbers[1]}: enabled" in rest.stdout, rest
        step(f"{m.name}: OSDs over")
    verify(machines)
    step("verified")
    look_at_top(machines, cluster)
    look_at_prometheus(machines[0])
    step("seen in vmsgr top and in Prometheus")
    upgrade(machines, debs, cluster)
    step("upgraded, everything carried as before")
    for m in machines:
        m.run("vmsgr", "ceph", "disable", "--all", *WATCH, timeout_s=800)
        step(f"{m.name}: OSDs back")
    for m in machines:
        go_out(m)
    step("packages out")
    cluster.wait_well()
    written = bench.rows()[-1][1]
    process.wait_until(lambda: bench.rows()[-1][1] > written, 30, "writes that go on")
    step("well")
    rows = bench.rows()
    print(f"rados bench: {rows[-1][1]} writes, no error; seconds without one: {bench.pauses()}", flush=True)


def start_daemons(machines):
    for m in machines:
        m.run("vmsgr", "ceph", "plan", "--between", "trunk", "-o", "/etc/vmsgr/vmsgrd.yaml")
        m.write("/etc/vmsgr/vmsgrd.yaml", f"metrics: {{listen: {METRICS_PORT}}}\n", "a")
        m.systemctl("restart", "vmsgrd")

    def trunks_up():
        return all(sum(t["state"] == "up" for t in json.loads(m.run("vmsgr", "trunks", "--json").stdout)) >= 4
                   for m in machines)
    process.wait_until(trunks_up, 30, "trunks to and from both others", every_s=0.5)


def verify(machines):
    for m in machines:
        reports = json.loads(m.run("vmsgr", "ceph", "verify", "--json").stdout)
        assert len(reports) == 2, reports
        for r in reports:
            assert r["attached"] and r["carried"] > 0 and r["monitors_on_kernel"] > 0 and r["wrong"] == [], r


def look_at_top(machines, cluster):
    for m in machines:
        shown = m.run("vmsgr", "top", "--count", "1").stdout
        for n in cluster.osds_of(m):
            assert re.search(rf"^.*ceph-osd.*\b{cluster.pid(n)}\b|^.*\b{cluster.pid(n)}\b.*ceph-osd", shown, re.M), shown


def look_at_prometheus(machine):
    machine.write("/etc/prometheus/prometheus.yml", SCRAPE)
    machine.run("promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    machine.systemctl("restart", "prometheus")

    def ask(query):
        done = machine.run("promtool", "query", "instant", f"http://127.0.0.1:{PROMETHEUS_PORT}", query, check=False)
        found = re.search(r"=> (\S+) @", done.stdout)
        return float(found[1]) if found else 0
    process.wait_until(lambda: ask('up{job="vmsgr"}') == 1, 60, "Prometheus to scrape vmsgrd", every_s=1)
    process.wait_until(lambda: ask("sum(rate(vmsgr_trunk_carried_bytes_total[10s]))") > 0, 60, "bytes over trunks", every_s=1)
    assert ask("vmsgr_sessions") == 2 and ask("sum(vmsgr_trunk_up)") >= 4
    assert ask('absent(ALERTS{alertstate="firing"})') == 1


def connections(machine):
    """Of OSDs: those that are carried, by process and descriptor."""
    return {(c["pid"], c["fd"]) for c in json.loads(machine.run("vmsgr", "conns", "--json").stdout)}


def upgrade(machines, debs, cluster):
    """apt installs a newer version while the OSDs work: `systemctl reload` in its script lets the new daemon take over."""
    for m in machines:
        pids, before, was = [cluster.pid(n) for n in cluster.osds_of(m)], connections(m), m.show("vmsgrd", "MainPID")
        install(m, newer(m, debs))
        now = m.show("vmsgrd", "MainPID", "ActiveState", "NRestarts")
        assert now["ActiveState"] == "active" and now["NRestarts"] == "0" and now["MainPID"] != was["MainPID"], (was, now)
        assert [cluster.pid(n) for n in cluster.osds_of(m)] == pids
        kept = before & connections(m)
        assert len(kept) >= 0.9 * len(before) > 0, (sorted(before - kept), m.journal("-u", "vmsgrd"))
    verify(machines)


def go_out(machine):
    machine.apt("purge", *sorted(installed(machine)))
    assert installed(machine) == set()
    assert machine.state("vmsgrd") in ("inactive", "failed") and machine.run("pgrep", "vmsgrd", check=False).stdout == ""
    for left in ("/usr/bin/vmsgr", "/usr/sbin/vmsgrd", "/usr/lib/vmsgr", "/etc/vmsgr", "/usr/share/vmsgr-ceph",
                 "/etc/systemd/system/multi-user.target.wants/vmsgrd.service"):
        assert not os.path.lexists(machine.path(left)), (machine.name, left)
    assert not [d for d in os.listdir(machine.path("/etc/systemd/system")) if d.startswith("ceph-osd@")]
