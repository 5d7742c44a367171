"""rsync to a daemon of its own: both sides write and read at once, by select, and the server's side has two processes
on one connection. A tree goes there and back, with what has changed and what is gone."""
import os
import random
import shutil

import pytest

from lib import process

pytestmark = pytest.mark.skipif(not shutil.which("rsync"), reason="no rsync: apt-get install rsync")

CONFIG = """\
use chroot = no
reverse lookup = no
lock file = {dir}/lock
{user}
[tree]
  path = {dir}/served
  read only = no
"""


def make_tree(where, seed):
    """Many small files and a few large ones, in folders."""
    dice = random.Random(seed)
    for n in range(150):
        name = where / f"folder-{n % 7}" / f"file-{n}"
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(dice.randbytes(2_000_000 if n % 50 == 0 else dice.randrange(4000)))


def change(where, seed):
    dice = random.Random(seed)
    for name in sorted(where.glob("*/*"))[::5]:
        name.unlink()
    for name in sorted(where.glob("*/*"))[::9]:
        data = bytearray(name.read_bytes())
        data[len(data) // 2:len(data) // 2] = dice.randbytes(700)
        name.write_bytes(data)


def same(a, b):
    return process.run(["diff", "-r", a, b], check=False).returncode == 0


@pytest.fixture
def served(way, tmp_path):
    os.makedirs(tmp_path / "served")
    config, port = tmp_path / "rsyncd.conf", way.port()
    user = "uid = root\ngid = root\n" if os.geteuid() == 0 else ""
    config.write_text(CONFIG.format(dir=tmp_path, user=user))
    way.serve(["rsync", "--daemon", "--no-detach", f"--address={way.address}", f"--port={port}", f"--config={config}",
               f"--log-file={tmp_path}/log"], port)
    return f"rsync://{way.address}:{port}/tree/"


def test_a_tree_there_and_back(way, served, tmp_path):
    here, back = tmp_path / "here", tmp_path / "back"
    make_tree(here, 1)
    way.run(["rsync", "-a", f"{here}/", served])
    assert same(here, tmp_path / "served")
    way.run(["rsync", "-az", served, f"{back}/"])
    assert same(here, back)
    for directory in (here, tmp_path / "served"):     # changed on this side, and pulled again
        change(directory, 2)
        way.run(["rsync", "-a", "--delete", "--ignore-times", "--no-whole-file", f"{here}/", served])
        assert same(here, tmp_path / "served")
        way.run(["rsync", "-ac", "--delete", served, f"{back}/"])
        assert same(here, back)
    listed = way.run(["rsync", "-r", served]).stdout
    assert len(listed.splitlines()) == 1 + sum(1 for _ in here.rglob("*"))
    way.check_carried(at_least=6_000_000)   # what a child of an attached program sends to another is not counted
