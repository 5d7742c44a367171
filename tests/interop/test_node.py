"""node: a cluster whose primary accepts and passes each connection to a worker (SCM_RIGHTS), or whose workers share
the listener; requests on kept connections, bodies both ways, a worker that dies, a socket that a program is started
on."""
import os
import shutil

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="no node: apt-get install nodejs")


@pytest.mark.parametrize("policy", ["rr", "none"])
def test_a_cluster_serves(way, policy):
    port = way.port()
    way.serve(["node", f"{HERE}/node_cluster.js", way.address, port], port, env={"NODE_CLUSTER_SCHED_POLICY": policy})
    said = way.run(["node", f"{HERE}/node_client.js", way.address, port], timeout_s=60).stdout
    assert said == "done\n"
    way.check_carried(at_least=4_000_000)    # what a worker sends that was given the connection is not counted
