"""Many connections of one process."""
import os

MANY, LIMIT = 10_000, 20_000


def test_ten_thousand_idle_connections_below_a_limit_of_twenty_thousand(ends, world):
    """Between two programs vmsgrd holds none of them; each end of each keeps at most 8 KiB resident."""
    if ends.mode not in ("pp", "ll"):
        return   # vmsgrd carries each and needs descriptors of its own
    for agent in (ends.server, ends.client):
        agent(f"!import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT})); held = []")
        agent.run("""
            def resident():
                with open('/proc/self/smaps_rollup') as f:
                    return next(int(line.split()[1]) for line in f if line.startswith('Rss'))
        """)
    port = ends.listen()
    ends.server("!l.listen(1000)")
    daemon_fds = f"/proc/{world.vmsgrd.pid}/fd"
    before, kib = len(os.listdir(daemon_fds)), [int(a("resident()")) for a in (ends.server, ends.client)]
    ends.server.run(f"""
        def take():
            while len(held) < {MANY}:
                held.append(l.accept()[0].detach())
        t = threading.Thread(target=take)
        t.start()
    """)
    for _ in range(10):
        ends.client.run(f"""
            for i in range({MANY // 10}):
                c = socket.create_connection(('127.0.0.1', {port}))
                held.append(c.detach())
        """)
    ends.server("!t.join(20)")
    assert ends.server("len(held)") == str(MANY)
    assert len(os.listdir(daemon_fds)) - before < 20
    for agent, kib_before in zip((ends.server, ends.client), kib):
        assert (int(agent("resident()")) - kib_before) / MANY <= 8
    ends.client("os.write(held[-1], b'the last one')")
    assert ends.server("os.read(held[-1], 100)") == repr(b"the last one")
