"""Ceph's own messenger programs: the network stack's unit tests, and its message benchmark."""
import os
import re

import pytest
from lib import ends as lib_ends
from lib import netns, process, vmsgrd

CONF = """[global]
auth cluster required = none
auth service required = none
auth client required = none
log file =
admin socket =
"""


@pytest.fixture(scope="module")
def ceph_env(world):
    path = f"{world.dir}/messenger.conf"
    with open(path, "w", encoding="ascii") as f:
        f.write(CONF)
    return {"CEPH_CONF": path}


# One process is both ends here, so the combination is made by the role that the routes name.
ROLES = {"pp": None, "rp": "client", "pr": "server", "rr": "any"}


@pytest.fixture(scope="module")
def steady_listen(world):
    """Takes a race out of ComplexTest, which crashes on plain sockets in about every second run (see the source)."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "steady_listen.c")
    built = f"{world.dir}/steady_listen.so"
    process.run(["cc", "-O1", "-shared", "-fPIC", "-o", built, source, "-ldl"])
    return ["sh", "-c", f'LD_PRELOAD="{built}${{LD_PRELOAD:+:$LD_PRELOAD}}" exec "$@"', "sh"]


def run_unit_tests(combination, env, wrapper, selection, count):
    directory = process.make_dir("vn-")
    role = ROLES[combination]
    routes = [vmsgrd.route("loopback", address="127.0.0.0/8", role=role or "any", via="direct" if role else "posix")]
    with netns.Netns("stack") as space, \
            vmsgrd.Vmsgrd(directory, routes=routes, netns=space, plain=lib_ends.PLAIN) as daemon:
        done = process.run([*daemon.prefix(), *wrapper, "ceph_test_async_networkstack", f"--gtest_filter={selection}"],
                           netns=space, env=env, timeout_s=120, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[:2000]
        assert re.search(rf"\[  PASSED  \] {count} test", done.stdout)
        if not lib_ends.PLAIN:
            totals = daemon.status()["totals"]
            assert (totals["bytes_direct"] + totals["bytes_local"] > 0) == (role is not None)
            assert totals["faults"] == 0
    process.remove_dir(directory)


@pytest.mark.parametrize("combination", lib_ends.COMBINATIONS)
def test_network_stack_unit_tests_pass(ceph_env, combination):
    # ConnectFailedTest connects to an address outside and, failing, crashes the next one on plain sockets too.
    run_unit_tests(combination, ceph_env, [], "-*ConnectFailedTest*:*ComplexTest*", 4)


@pytest.mark.parametrize("combination", lib_ends.COMBINATIONS)
def test_network_stack_complex_test_passes(ceph_env, steady_listen, combination):
    run_unit_tests(combination, ceph_env, steady_listen, "*ComplexTest*", 1)


@pytest.mark.parametrize("size", [512, 65536])
def test_message_benchmark_completes(ends, ceph_env, size):
    port = ends.port()
    where = f"{ends.url_host}:{port}"
    # One job: a second one's connect holds the messenger's lock and waits for the worker that wants it for the first
    # one's handshake (AsyncMessenger::learned_addr), a deadlock in about every tenth run on plain sockets.
    jobs, messages = 1, 4000
    ends.serve(["ceph_perf_msgr_server", where, "2", "0"], port, env=ceph_env)
    done = ends.run(["ceph_perf_msgr_client", where, str(jobs), "16", str(messages), "0", str(size)],
                    env=ceph_env, timeout_s=60)
    assert f"Total op {jobs * messages} " in done.stdout + done.stderr
    ends.check_carried(at_least=jobs * messages * size)
