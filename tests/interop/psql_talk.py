"""Two psql: a query of one is cancelled by its signal handler over a connection of its own, a backend tells the other
something."""
import signal
import subprocess
import sys
import time


class Psql:
    def __init__(self):
        self.process = subprocess.Popen([sys.argv[1], "-XAtq"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True, bufsize=1)

    def tell(self, *lines):
        for line in lines:
            self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def lines_until(self, last):
        lines = []
        while not lines or lines[-1] != last:
            line = self.process.stdout.readline()
            assert line, lines
            lines.append(line.rstrip("\n"))
        return lines


a, b = Psql(), Psql()
a.tell("select 'before';", "select pg_sleep(60);")
a.lines_until("before")
until = time.monotonic() + 10
count = ""
while count != "1" and time.monotonic() < until:
    b.tell("select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active';")
    count = b.process.stdout.readline().strip()
    time.sleep(0.02)
assert count == "1", count
began = time.monotonic()
a.process.send_signal(signal.SIGINT)
said = a.process.communicate("")[0]    # it ends then, as its input is no terminal
assert "ERROR:  canceling statement due to user request" in said and time.monotonic() - began < 10, said

a = Psql()
b.tell("listen news;", "select 'listens';")
b.lines_until("listens")
a.tell("notify news, 'something';", "select 'told';")
a.lines_until("told")
b.tell("select 'hears';", "select 'last';")
said = b.lines_until("last")
assert any('notification "news" with payload "something"' in line for line in said), said
for p in (a, b):
    assert p.process.communicate("")[0] == "" and p.process.returncode == 0
