"""The documents are true as far as a program can tell: the reference is the code's, links lead somewhere, what a how-to page says works."""
import glob
import os
import re
import shutil
import subprocess

import pytest
import yaml
from lib import vmsgrd
from lib.process import ROOT

DOCS = sorted(glob.glob(f"{ROOT}/*.md") + glob.glob(f"{ROOT}/docs/**/*.md", recursive=True))


def text_of(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(path), re.M | re.S)


def test_the_reference_is_what_the_code_says():
    done = subprocess.run([f"{ROOT}/tools/make-reference", "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done


def test_the_manual_explains_each_key_of_the_configuration():
    keys = re.findall(r"^\| `([a-z_.\[\]]+)` \|", text_of("docs/REFERENCE.md").partition("## Configuration")[2].partition("\n## ")[0], re.M)
    manual = text_of("man/vmsgrd.8")
    assert len(keys) > 60
    for key in keys:
        name = key.rpartition(".")[2].removesuffix("[]")
        assert re.search(rf'^\.(B|BR|TP\n\.B) "?(\w+ ", " )*{name}\b|\b{name}\b', manual, re.M), key


def anchor(title):
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("path", DOCS, ids=lambda p: os.path.relpath(p, ROOT))
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```$", "", text_of(path), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, part = target.partition("#")
        to = os.path.normpath(os.path.join(os.path.dirname(path), file)) if file else path
        assert os.path.exists(to), target
        if part:
            titles = {anchor(t) for t in re.findall(r"^#+ (.*)$", text_of(to), re.M)}
            assert part in titles, (target, titles)


def test_every_page_is_on_the_site():
    nav = text_of("mkdocs.yml")
    for path in glob.glob(f"{ROOT}/docs/**/*.md", recursive=True):
        assert f": {os.path.relpath(path, ROOT + '/docs')}\n" in nav, path


def test_the_site_builds():
    if shutil.which("mkdocs") is None:
        pytest.skip("mkdocs is not installed; tools/setup.sh site")
    done = subprocess.run([f"{ROOT}/tools/make-site"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done
    page = text_of("build/site/man/vmsgrd.8.html")
    assert "<h1" in page and "watchdog_ms" in page and not re.search(r"^\.[A-Z]{2}\b|\\f[BIR]", page, re.M)


def test_certificates_and_configuration_of_two_hosts_are_good(here):
    for commands in blocks("docs/howto/two-hosts.md", "sh"):
        done = subprocess.run(["sh", "-e", "-c", commands], cwd=here, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done
    for host in ("host-a", "host-b"):
        done = subprocess.run(["openssl", "verify", "-CAfile", "ca.pem", f"{host}.pem"], cwd=here, capture_output=True, text=True)
        assert done.returncode == 0, done
        shown = subprocess.run(["openssl", "x509", "-in", f"{host}.pem", "-noout", "-ext", "subjectAltName"], cwd=here,
                               capture_output=True, text=True)
        assert f"DNS:{host}" in shown.stdout, shown
    [config] = blocks("docs/howto/two-hosts.md", "yaml")
    check_config(here, config.replace("/etc/vmsgr/", f"{here}/"))


def check_config(here, text):
    path = f"{here}/checked.yaml"
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    done = subprocess.run([vmsgrd.VMSGRD, "--config", path, "--check-config"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done


@pytest.mark.parametrize("page", ["docs/howto/programs.md", "docs/howto/containers.md"])
def test_configurations_of_how_to_pages_are_good(here, page):
    for config in blocks(page, "yaml"):
        check_config(here, config)


def test_commands_of_how_to_pages_exist():
    known = set(re.findall(r"^### vmsgr ([a-z ]+)$", text_of("docs/REFERENCE.md"), re.M))
    for path in glob.glob(f"{ROOT}/docs/howto/*.md"):
        for block in re.findall(r"^```\w*\n(.*?)^```$", text_of(path), re.M | re.S):
            for words in re.findall(r"^(?:\w+=\S+ )*vmsgr ([a-z]+)", block, re.M):
                assert words in known, (path, words)


def test_manifests_are_whole(here):
    """As far as it can be told without a cluster: the documents parse, selectors fit, each mount has its volume."""
    documents = list(yaml.safe_load_all(text_of("examples/containers/kubernetes.yaml")))
    assert [d["kind"] for d in documents] == ["ConfigMap", "DaemonSet", "Pod"]
    check_config(here, documents[0]["data"]["vmsgrd.yaml"])
    daemons = documents[1]["spec"]
    assert daemons["selector"]["matchLabels"] == daemons["template"]["metadata"]["labels"]
    for spec in (daemons["template"]["spec"], documents[2]["spec"]):
        volumes = {v["name"] for v in spec["volumes"]}
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            assert {m["name"] for m in container["volumeMounts"]} <= volumes
            assert all(isinstance(e["value"], str) for e in container.get("env", []))
    osds = yaml.safe_load(text_of("examples/containers/cephadm-osd.yaml"))
    assert osds["service_type"] == "osd" and all(a.startswith("-") for a in osds["extra_container_args"])
