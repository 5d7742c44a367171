"""Python interpreters that do what a test tells them, a line at a time: the programs at the ends of a connection."""
import select
import subprocess
import textwrap

from .process import Process

# Runs what it is told, a line at a time, and prints what came of it.
AGENT = """
import hashlib, os, random, select, signal, socket, struct, subprocess, sys, threading, time
names = globals()
for line in sys.stdin:
    try:
        told = (line[1:], 'exec') if line.startswith('!') else (line, 'eval')
        value = eval(compile(told[0], 'told', told[1]), names)
        print(repr(value), flush=True)
    except BaseException as e:
        print('%s %s' % (type(e).__name__, e), flush=True)
"""


class Agent:
    """Its words say how it is started; `user`: another user id."""

    def __init__(self, words, *, user=None, inside=None):
        if user is not None:
            words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *words]
        self.process = Process([*words, "/usr/bin/python3", "-c", AGENT], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, netns=inside)

    def begin(self, text):
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def end(self, timeout_s=40):
        ready, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        assert ready, f"no answer within {timeout_s} s"
        return self.process.stdout.readline().decode().strip()

    def __call__(self, text):
        """The value of an expression, as repr() shows it, or an exception. A line with ! in front is a statement."""
        self.begin(text)
        return self.end()

    def run(self, code):
        """Several lines; fails where they do."""
        said = self("!exec(" + repr(textwrap.dedent(code)) + ", names)")
        assert said == "None", said

    def kill(self):
        self.process.kill()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
