"""vmsgr routes and vmsgr routes test."""
import json

import pytest

pytestmark = pytest.mark.fast

ROUTES = """
routes:
  - {name: mon, ports: 3300, via: posix}
  - {name: osds, program: "ceph-*", address: 10.0.0.0/8, ports: 6800-7300, via: direct, fallback: fail}
  - {name: web, role: server, ports: "80", via: direct}
  - {name: no-v6, address: "fd00::/8", via: deny}
"""


@pytest.fixture
def test_route(vmsgr, write):
    path = write(ROUTES)

    def ask(*words, code=0):
        done = vmsgr("routes", "test", "--routes", path, "--json", *words)
        assert done.code == code, done
        return json.loads(done.out)
    return ask


def test_first_match_wins(test_route):
    found = test_route("--program", "ceph-osd", "10.1.2.3:6805")
    assert (found["via"], found["route"], found["program"]) == ("direct", "osds", "ceph-osd")
    assert test_route("--program", "ceph-osd", "10.1.2.3:3300")["via"] == "posix"
    assert test_route("--program", "ceph-osd", "10.1.2.3:3300")["route"] == "mon"
    assert test_route("[fd00::1]:9")["via"] == "deny"


def test_no_match_is_posix_without_a_route(test_route):
    found = test_route("--program", "rados", "10.1.2.3:6805")
    assert (found["via"], found["route"]) == ("posix", None)
    why = {r["name"]: r["why_not"] for r in found["rules"]}
    assert why["osds"] == "program 'rados' is not 'ceph-*'"
    assert why["mon"] == "port 6805 is not in 3300"
    assert why["web"] == "it is for the role server, not client"
    assert why["no-v6"] == "address 10.1.2.3 is not in fd00::/8"


def test_role_matters(test_route):
    assert test_route("10.0.0.1:80")["route"] is None
    assert test_route("--role", "server", "10.0.0.1:80")["route"] == "web"
    assert test_route("--role", "server", "0.0.0.0:80")["route"] == "web"


def test_without_program_or_port_all_that_may_win_are_told(test_route):
    found = test_route("10.1.2.3")["decisions"]
    assert found == [{"via": "posix", "route": "mon", "condition": "for ports 3300"},
                     {"via": "direct", "route": "osds", "condition": "for program 'ceph-*', ports 6800-7300"},
                     {"via": "posix", "route": None, "condition": None}]


def test_answer_in_words(vmsgr, write):
    path = write(ROUTES)
    done = vmsgr("routes", "test", "--routes", path, "--program", "ceph-osd", "--verbose", "10.1.2.3:6805")
    assert done.out.startswith("10.1.2.3:6805 as client of ceph-osd: direct, by route 'osds' (fallback fail)\n")
    assert "mon                  does not match: port 6805 is not in 3300\n" in done.out


def test_list_as_table_and_json(vmsgr, write):
    path = write(ROUTES)
    table = vmsgr("routes", "--routes", path)
    assert table.out.splitlines()[0].split() == ["#", "NAME", "PROGRAM", "ROLE", "ADDRESS", "PORTS", "VIA", "FALLBACK"]
    assert table.out.splitlines()[2].split() == ["1", "osds", "ceph-*", "any", "10.0.0.0/8", "6800-7300", "direct",
                                                 "fail"]
    assert all(len(line) <= 80 for line in table.out.splitlines())
    listed = json.loads(vmsgr("routes", "--routes", path, "--json").out)
    assert [r["name"] for r in listed] == ["mon", "osds", "web", "no-v6"]
    assert "no routes" in vmsgr("routes", "--routes", write("routes: []", "none.yaml")).out


def test_routes_of_the_daemon(vmsgr, daemon):
    listed = json.loads(vmsgr("routes", "--json", "--socket", daemon.socket).out)
    assert [r["name"] for r in listed] == ["closed", "kernel", "loopback", "loopback6"]
    found = json.loads(vmsgr("routes", "test", "127.0.0.1:80", "--json", "--socket", daemon.socket).out)
    assert (found["via"], found["route"]) == ("direct", "loopback")


@pytest.mark.parametrize("address", ["localhost", "", "10.0.0.0/8", "10.0.0.1:99999", "[::1"])
def test_what_is_no_address_is_refused(vmsgr, write, address):
    vmsgr("routes", "test", "--routes", write(ROUTES), address).refused(2, "is not an address such as")


def test_wrong_role_and_wrong_file_are_refused(vmsgr, here, write):
    vmsgr("routes", "test", "--routes", write(ROUTES), "--role", "sever", "::1").refused(
        2, "'sever' is not one of client, server; did you mean 'server'?")
    vmsgr("routes", "--routes", f"{here}/none").refused(1, "No such file or directory")
    vmsgr("routes", "--routes", write("routes:\n  - name: a\n", "b.yaml")).refused(1, "b.yaml:2: routes[0]: 'via'")
