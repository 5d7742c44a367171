"""What a keeper costs direct connections: vmsgrd beside its own objects linked without one (alone.cc)."""
import json

from record import CPU, Metric, cpu_metric
from world import ALONE, DIRECT, NET, NO_KEEPER, World

WITHIN = 0.02
KEPT = 500   # connections that are open long enough to be handed over


def keeper(settings, recorder):
    """Direct connections with a keeper and without: connects, connections that are kept, round trips, a stream."""
    with World(settings, program=ALONE) as alone, World(settings) as whole:
        worlds = {NO_KEEPER: alone, DIRECT: whole}
        servers = {v: w.serve_net(v, "serve") for v, w in worlds.items()}
        many = {v: w.serve_net(v, "serve-epoll") for v, w in worlds.items()}

        def measured(variant, *words):
            server, where = servers[variant]
            client = [*words[:1], where, *words[1:]]
            world = worlds[variant]
            return world.measure(variant, [server], lambda: world.run_net(variant, *client))

        def connects(variant):
            out, cost = measured(variant, "connect", "--seconds", str(settings.seconds))
            return {"rate": out["connects_per_s"], CPU: cost.us_per(out["messages"], out["cpu_s"])}

        def kept(variant):
            """Opened one after the other, and closed a second later."""
            server, where = many[variant]
            script = f"(echo; sleep 1.5) | {NET} idle {where} --count 10 --connections {KEPT}; sleep 0.5"   # the keeper closes last
            done, cost = worlds[variant].measure(variant, [server], lambda: worlds[variant].run(variant, ["sh", "-c", script]))
            return {"rate": json.loads(done.stdout.splitlines()[1])["opened_per_s"], CPU: cost.us_per(KEPT)}

        def round_trips(variant):
            out, cost = measured(variant, "rtt", "--count", str(max(5000, int(settings.seconds * 15000))))
            return {"p50": out["p50_us"], CPU: cost.us_per(out["messages"], out["cpu_s"])}

        def stream(variant):
            out, cost = measured(variant, "stream", "--size", "65536", "--seconds", str(settings.seconds))
            return {"throughput": out["gigabytes_per_s"], CPU: cost.us_per(out["messages"], out["cpu_s"])}

        least, most = {DIRECT: 1 - WITHIN}, {DIRECT: 1 + WITHIN}
        rows = {"connect request close": (connects, {"rate": Metric("1/s", targets=least)}),
                "open and keep": (kept, {"rate": Metric("1/s")}),
                "round trip 64 B": (round_trips, {"p50": Metric("us", higher=False, targets=most)}),
                "stream 65536 B writes": (stream, {"throughput": Metric("GB/s", targets=least)})}
        for name, (measure, metrics) in rows.items():
            recorder.alternate(f"keeper: {name}", {v: lambda v=v, m=measure: m(v) for v in worlds}, metrics | {CPU: cpu_metric()})
