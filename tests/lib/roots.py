"""Roots of Debian releases, made once by debootstrap in build/roots: as root, with a network, a minute or more."""
import glob
import os
import shutil
import subprocess

from .process import ROOT

USUAL_ARCHIVE = "http://deb.debian.org/debian"


def archive(suite):
    """Debian's archive as this machine's apt knows it."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main"]
    done = subprocess.run([*words, f"Codename: {suite}"], capture_output=True, text=True, check=False)
    return (done.stdout.split() or [USUAL_ARCHIVE])[0]


def with_this_machines_way_out(path):
    """How this machine reaches an archive (proxies, name servers), so that apt works in the root."""
    for conf in glob.glob("/etc/apt/apt.conf.d/*"):
        with open(conf, encoding="utf-8", errors="replace") as f:
            text = f.read()
        if "::Proxy" in text or "Acquire" in text:
            shutil.copy(conf, f"{path}/etc/apt/apt.conf.d/")
    shutil.copy("/etc/resolv.conf", f"{path}/etc/resolv.conf")
    with open(f"{path}/usr/sbin/policy-rc.d", "w", encoding="ascii") as f:   # installing a server starts none
        f.write("#!/bin/sh\nexit 101\n")
    os.chmod(f"{path}/usr/sbin/policy-rc.d", 0o755)


def make(name, suite, packages, more=()):
    """(path, None), or (None, why there is none). packages: of the first step; more: by apt, with what they need."""
    path = os.path.join(ROOT, "build", "roots", name)
    with_what = " ".join((suite, *packages, *more))
    if os.path.exists(f"{path}/.made"):
        with open(f"{path}/.made", encoding="ascii") as f:
            if f.read() == with_what:
                return path, None
    if os.geteuid() != 0:
        return None, f"a root of Debian {suite} is made and entered by root alone"
    if shutil.which("debootstrap") is None:
        return None, "debootstrap is not installed; run tools/setup.sh as root"
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    include = [f"--include={','.join(packages)}"] if packages else []
    steps = [["debootstrap", "--variant=minbase", *include, suite, path, archive(suite)]]
    if more:
        apt = ["chroot", path, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "-q"]
        steps += [[*apt, "update"], [*apt, "install", "--no-install-recommends", *more]]
    for n, words in enumerate(steps):
        if n == 1:
            with_this_machines_way_out(path)
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=900)
        if done.returncode != 0:
            return None, f"{words[0]} made no root of Debian {suite} (is there a network?): {done.stdout.strip().splitlines()[-1:]}"
    with open(f"{path}/.made", "w", encoding="ascii") as f:
        f.write(with_what)
    return path, None
