"""git through a git daemon: it passes each connection to a child as its standard input and output, and both children
speak by libc's stdio. Every combination of routed and plain ends, IPv4 and IPv6."""
import os
import subprocess

import pytest

GIT_DAEMON = "/usr/lib/git-core/git-daemon"
pytestmark = pytest.mark.skipif(not os.path.exists(GIT_DAEMON), reason="no git daemon: apt-get install git")

WHO = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
       "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}


class Repository:
    """A served bare repository, and clients that are routed as the combination says."""

    def __init__(self, ends, where):
        self.ends, self.where = ends, str(where)
        self.bare = os.path.join(self.where, "served.git")
        self.env = dict(os.environ, **WHO)
        self.plain("init", "-q", "--bare", "-b", "main", self.bare)
        self.plain("-C", self.bare, "config", "daemon.receivepack", "true")
        work = os.path.join(self.where, "work")
        self.plain("init", "-q", "-b", "main", work)
        self.commit(work, 3_000_000)
        self.plain("-C", work, "push", "-q", self.bare, "main")
        port = ends.port()
        ends.serve([GIT_DAEMON, "--reuseaddr", f"--listen={ends.address}", f"--port={port}", "--export-all",
                    f"--base-path={self.where}", "--enable=receive-pack", self.where], port=port, env=self.env)
        self.url = f"git://{ends.url_host}:{port}/served.git"

    def plain(self, *words):
        return subprocess.run(["git", *words], env=self.env, check=True, capture_output=True, text=True).stdout.strip()

    def routed(self, *words):
        return self.ends.run(["git", *words], env=self.env, timeout_s=60)

    def commit(self, work, size):
        with open(os.path.join(work, "file"), "wb") as f:
            f.write(os.urandom(size))
        self.plain("-C", work, "add", "file")
        self.plain("-C", work, "commit", "-q", "-m", f"{size} bytes")

    def head(self, of):
        return self.plain("-C", of, "rev-parse", "main")


def test_clone_push_and_fetch(ends, tmp_path):
    repository = Repository(ends, tmp_path)
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    for clone in (first, second):
        repository.routed("clone", "-q", repository.url, clone)
        assert repository.head(clone) == repository.head(repository.bare)
        repository.plain("-C", clone, "fsck", "--strict")
    repository.commit(first, 2_000_000)
    repository.routed("-C", first, "push", "-q", "origin", "main")
    assert repository.head(first) == repository.head(repository.bare)
    repository.routed("-C", second, "fetch", "-q", "origin")
    assert repository.plain("-C", second, "rev-parse", "origin/main") == repository.head(first)
    ends.check_carried(1)   # a plain connection's bytes between two programs are not seen
