"""redis-server: many small requests, pipelines, big values, and snapshots that fork with every connection open."""
import csv
import io
import os

import pytest

CHECK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "redis_check.py")


class Redis:
    def __init__(self, ends):
        self.ends, self.port = ends, ends.port()
        self.dir = ends.path(f"redis-{self.port}")
        os.makedirs(self.dir)
        self.process = self.start()

    def start(self):
        return self.ends.serve(["redis-server", "--port", str(self.port), "--bind", self.ends.address, "--save", "",
                                "--dir", self.dir, "--appendonly", "no", "--loglevel", "notice"], self.port)

    def cli(self, *words):
        return self.ends.run(["redis-cli", "-h", self.ends.address, "-p", str(self.port), *words]).stdout.strip()

    def check(self, *words):
        return self.ends.run(["/usr/bin/python3", CHECK, self.ends.address, str(self.port), *words], timeout_s=60)


@pytest.fixture
def redis(ends):
    return Redis(ends)


@pytest.mark.parametrize("pipeline", [1, 16], ids=["single", "pipelined"])
def test_benchmark_completes(ends, redis, pipeline):
    requests = 20000
    done = ends.run(["redis-benchmark", "-h", ends.address, "-p", str(redis.port), "-n", str(requests), "-c", "20",
                     "-t", "set,get,lpush", "-d", "64", "-P", str(pipeline), "--csv"], timeout_s=60)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["test"] for row in rows] == ["SET", "GET", "LPUSH"]
    assert all(float(row["rps"]) > 100 for row in rows)
    assert redis.cli("LLEN", "mylist") == str(requests)
    ends.check_carried(at_least=requests * 64 * 3)


def test_values_come_back_as_written(ends, redis):
    redis.check("values")
    ends.check_carried(at_least=4 << 20)


def test_snapshot_while_clients_write(ends, redis):
    redis.check("snapshot")
    written = int(redis.cli("DBSIZE"))
    redis.cli("CONFIG", "SET", "save", "")
    redis.process.stop()
    again = redis.start()                       # the same port at once, and the snapshot's data
    assert again.alive()
    assert 2000 <= int(redis.cli("DBSIZE")) <= written
    redis.check("verify")
    ends.check_carried(at_least=1 << 20)


def test_blocked_client_is_woken_by_another(ends, redis):
    redis.check("blocking")
    ends.check_carried(at_least=90)
