"""PostgreSQL: a process for each connection, forked from one that accepts; latches that wait for the connection, for
signals and for each other. pgbench, COPY of megabytes both ways, a query that is cancelled over a second connection,
notifications, a crash of one backend, which makes the server start all of them anew."""
import glob
import hashlib
import os
import shutil
import subprocess

import pytest

from lib import process

BIN = (sorted(glob.glob("/usr/lib/postgresql/*/bin")) or [""])[-1]
pytestmark = [
    pytest.mark.skipif(not os.path.exists(f"{BIN}/postgres"), reason="no PostgreSQL: apt-get install postgresql"),
    pytest.mark.skipif(os.geteuid() != 0, reason="it does not run as root, so it becomes another user"),
]
USER = "postgres"
TALK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "psql_talk.py")


@pytest.fixture(scope="module")
def empty_cluster(world):
    """Made once, and copied."""
    directory = os.path.join(world.dir, "postgres-empty")
    os.makedirs(directory)
    shutil.chown(directory, USER, USER)
    subprocess.run(["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", f"{BIN}/initdb", "--no-sync",
                    "-A", "trust", "-E", "UTF8", "--locale=C", "-D", directory],
                   check=True, stdout=subprocess.DEVNULL, cwd="/")
    return directory


class Postgres:
    def __init__(self, ends, empty_cluster):
        self.ends, self.port = ends, ends.port()
        directory = ends.path(f"postgres-{self.port}")
        subprocess.run(["cp", "-a", empty_cluster, directory], check=True)
        settings = {"listen_addresses": ends.address, "unix_socket_directories": "", "fsync": "off",
                    "shared_buffers": "16MB", "autovacuum": "off", "max_wal_size": "256MB"}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.process = ends.serve([f"{BIN}/postgres", "-D", directory, "-p", self.port, *words], self.port, user=USER)
        self.env = {"PGHOST": ends.address, "PGPORT": str(self.port), "PGUSER": USER, "PGDATABASE": USER,
                    "PGSSLMODE": "disable"}
        process.wait_until(lambda: self.psql("-c", "select 1", check=False).returncode == 0, 15, "PostgreSQL to answer")

    def psql(self, *words, **kw):
        words = [f"{BIN}/psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *words]
        return self.ends.run(words, env=self.env, timeout_s=40, **kw)

    def pgbench(self, *words):
        words = [f"{BIN}/pgbench", "-q" if "-i" in words else "-n", *words]
        return self.ends.run(words, env=self.env, timeout_s=60).stdout


@pytest.fixture
def postgres(way, empty_cluster):
    return Postgres(way, empty_cluster)


def test_transactions_of_many_clients(way, postgres):
    postgres.pgbench("-i", "-s", "1", "-I", "dtGvp")
    for words in (["-M", "simple"], ["-M", "prepared", "-C"], ["-M", "extended", "-S"]):
        said = postgres.pgbench("-c", "6", "-j", "2", "-t", "15" if "-C" in words else "60", *words)
        assert "number of failed transactions: 0 " in said, said
    balances = postgres.psql("-c", "select sum(abalance) from pgbench_accounts",
                             "-c", "select sum(bbalance) from pgbench_branches", "-c", "select count(*) from pgbench_history").stdout.split()
    assert balances[0] == balances[1] and int(balances[2]) == 6 * (60 + 15)
    way.check_carried(at_least=100_000)


def test_copy_in_and_out(way, postgres):
    rows = "".join(f"{n}\t{hashlib.sha256(str(n).encode()).hexdigest() * 2}\n" for n in range(40_000))
    postgres.psql("-c", "create table t(n int, text text)", "-c", "copy t from stdin", input=rows)
    assert postgres.psql("-c", "copy (select * from t order by n) to stdout").stdout == rows
    way.check_carried(at_least=len(rows))


def test_cancel_and_notify(way, postgres):
    way.run(["/usr/bin/python3", TALK, f"{BIN}/psql"], env=postgres.env, timeout_s=30)
    way.check_carried(at_least=100)


def test_a_killed_backend(way, postgres):
    done = postgres.psql("-c", "copy (select pg_backend_pid()) to program 'xargs kill -9'", check=False)
    assert done.returncode == 2 and "server closed the connection unexpectedly" in done.stderr, done.stderr
    process.wait_until(lambda: postgres.psql("-c", "select 1", check=False).stdout == "1\n", 20,
                       "PostgreSQL to recover", every_s=0.2)
    way.check_carried(at_least=10)
