"""The status page: to whom it shows what, what a browser makes of it, and that names of users stay text."""
import http.server
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
from lib import chromium, process, vmsgrd

from held import Held
from test_stats import pair  # noqa: F401
from test_views import PYTHON, Program

ROUTES = [vmsgrd.route("wire", address="127.0.0.0/8", local="no")]
OTHER_USER = 2001
browsers = pytest.mark.skipif(chromium.why_not() is not None, reason=str(chromium.why_not()))


@pytest.fixture(scope="module")
def daemon():
    port = process.free_port()
    more = f"access: {{mode: 0666}}\nmetrics: {{listen: {port}}}\n"
    with vmsgrd.Vmsgrd(process.make_dir("vp-"), routes=ROUTES, config=more) as running:
        os.chmod(os.path.dirname(running.socket), 0o755)
        running.metrics = port
        yield running


@pytest.fixture
def page(vmsgr, daemon):
    """Its address, with a key of this or another user."""
    def address(user=None):
        done = vmsgr("page", "--socket", daemon.socket, user=user)
        assert done.code == 0, done
        return done.out.strip()
    return address


def ask(daemon, key, source="127.0.0.1", path="/status.json"):
    """Status code, document and headers."""
    with socket.create_connection(("127.0.0.1", daemon.metrics), 10, source_address=(source, 0)) as s:
        s.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAUTHORIZATION:  Bearer {key} \r\n\r\n".encode("ascii"))
        text = b""
        while piece := s.recv(65536):
            text += piece
    head, _, body = text.decode("utf-8").partition("\r\n\r\n")
    code = int(head.split()[1])
    return code, json.loads(body) if code == 200 and path == "/status.json" else body, head


def test_a_key_shows_what_status_shows(daemon, page, pair):
    server, client = pair
    address, _, key = page().partition("/#")
    assert address == f"http://127.0.0.1:{daemon.metrics}" and re.fullmatch("[0-9a-f]{32}", key)
    code, doc, head = ask(daemon, key)
    assert code == 200 and "Content-Type: application/json" in head and "Access-Control" not in head
    assert {c["pid"] for c in doc["connections"]} == {server.pid, client.pid} and doc["connections_left_out"] == 0
    assert doc["shown"]["all"] is True and "faults" in doc["totals"]
    other = ask(daemon, page(user=OTHER_USER).partition("#")[2])[1]
    assert other["connections"] == other["sessions"] == other["trunks"] == []
    assert other["shown"] == {"all": False, "uid": OTHER_USER, "observers": None} and "faults" not in other["totals"]


@pytest.mark.parametrize("key", ["", "0" * 32, "0" * 31, "x" * 4000])
def test_without_a_key_there_is_nothing(daemon, pair, key):
    code, body, head = ask(daemon, key)
    assert code == 401 and "vmsgr page" in body and "WWW-Authenticate: Bearer" in head
    assert str(pair[0].pid) not in body


def test_a_key_is_for_this_host(daemon, page):
    """A client at another address, which has a good key."""
    key = page().partition("#")[2]
    code, body, _ = ask(daemon, key, source="127.0.0.2")
    assert code == 403 and "browsers on this host" in body
    assert ask(daemon, key)[0] == 200


def test_keys_of_a_user_are_few_and_take_none_of_others(daemon, page):
    mine = page().partition("#")[2]
    his = [page(user=OTHER_USER).partition("#")[2] for _ in range(9)]
    assert [ask(daemon, key)[0] for key in his] == [401] + [200] * 8
    assert ask(daemon, mine)[0] == 200


def test_keys_end_when_access_changes(daemon, page, vmsgr):
    key = page().partition("#")[2]
    with open(daemon.config, encoding="ascii") as f:
        before = f.read()
    try:
        with open(daemon.config, "w", encoding="ascii") as f:
            f.write(before.replace("mode: 0666", "mode: 0666, uids: [root]"))
        daemon.process.signal(signal.SIGHUP)
        process.wait_until(lambda: ask(daemon, key)[0] == 401, 10, "the key to end")
        assert vmsgr("page", "--socket", daemon.socket, user=OTHER_USER).code == 3
        assert ask(daemon, page().partition("#")[2])[0] == 200
    finally:
        with open(daemon.config, "w", encoding="ascii") as f:
            f.write(before)
        daemon.process.signal(signal.SIGHUP)
    process.wait_until(lambda: vmsgr("page", "--socket", daemon.socket, user=OTHER_USER).code == 0, 10, "the old rules")


def test_the_page_has_a_strict_policy_and_nothing_from_outside(daemon):
    code, text, head = ask(daemon, "", path="/")
    policy = re.search("Content-Security-Policy: (.*)\r\n", head + "\r\n")[1]
    nonce = re.search(r"script-src 'nonce-(\d+)'", policy)[1]
    assert code == 200 and policy == (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")
    assert text.count(f'nonce="{nonce}"') == 2 and "NONCE" not in text
    assert set(re.findall(r"https?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}
    assert nonce not in ask(daemon, "", path="/")[1]


def test_without_the_port_there_is_no_page(vmsgr, here):
    with vmsgrd.Vmsgrd(here, routes=ROUTES) as dark:
        vmsgr("page", "--socket", dark.socket).refused(1, "metrics.listen")
    vmsgr("page", "--socket", f"{here}/none.sock").refused(3, "none.sock")


def test_local_connections_of_a_program_are_shown(vmsgr, here):
    port = process.free_port()
    with vmsgrd.Vmsgrd(here, routes=[vmsgrd.route("all", address="127.0.0.0/8")],
                       config=f"metrics: {{listen: {port}}}\n") as daemon:
        daemon.metrics = port
        key = vmsgr("page", "--socket", daemon.socket).out.strip().partition("#")[2]

        def of(pid):
            return next((s for s in ask(daemon, key)[1]["sessions"] if s["pid"] == pid), {})
        with Program(daemon.prefix(), "serve", "127.0.0.1", 0) as server:
            _, at, _ = server.says()
            with Program(daemon.prefix(), "connect", "127.0.0.1", at) as client:
                server.says(), client.says()
                client.does("send", 54321)
                server.does("receive", 54321)
                client.says(), server.says()
                process.wait_until(lambda: of(client.pid).get("local_bytes_out") == 54321, 5, "its bytes to be shown")
                assert of(client.pid)["local_connections"] == of(server.pid)["local_connections"] == 1
                assert of(server.pid)["local_bytes_out"] == 0
            process.wait_until(lambda: of(client.pid) == {}, 5, "its row to be gone")


@pytest.fixture(scope="module")
def browser():
    with chromium.Browser() as b:
        yield b


def save(browser, name):
    folder = os.environ.get("VMSGR_SCREENSHOTS")
    if folder:
        browser.picture(os.path.join(folder, name))


@browsers
def test_a_browser_draws_programs_and_rates(browser, daemon, page, pair, here):
    hostile = f"{here}/<script>document.title='owned'<!--"
    os.symlink(PYTHON, hostile)
    server, client = pair   # beside them, so that one connection's bytes are not taken for another's
    client.does("send", 1000)
    client.says()
    with Program(daemon.prefix(), "serve", "127.0.0.1", 0, python=hostile) as server:
        _, port, _ = server.says()
        with Program(daemon.prefix(), "connect", "127.0.0.1", port) as client:
            server.says(), client.says()
            browser.complaints.clear()
            browser.open(page())
            browser.wait_for("document.querySelectorAll('path.direct').length === 4")
            assert browser.ask("location.hash") == "" and browser.ask("sessionStorage.getItem('key').length") == 32
            process.wait_until(lambda: "owned" in browser.ask("at('programs').innerText"), 10, "the name to be shown")
            client.does("send", 16 << 20)
            browser.wait_for("/[1-9].* [KMG]iB\\/s/.test(at('programs').innerText)")
            browser.wait_for("document.querySelectorAll('path.stalled').length >= 1")
            assert "the program has not read for" in browser.ask("at('connections').innerText")
            browser.wait_for("!/[1-9].*B\\/s/.test(at('connections').innerText)")
            for scheme in ("dark", "light"):
                browser.scheme(scheme)
                ground = browser.ask("getComputedStyle(document.body).backgroundColor")
                assert (sum(map(int, re.findall(r"\d+", ground))) < 150) == (scheme == "dark"), ground
                save(browser, f"test-page-{scheme}.png")
            assert browser.ask("document.title") == "VMSGR" and browser.complaints == []


@browsers
def test_a_browser_says_what_is_missing(browser, daemon, page):
    browser.open("about:blank")
    browser.open(page().partition("#")[0])
    browser.ask("sessionStorage.clear()")
    browser.open("about:blank")
    browser.open(page().partition("#")[0])
    browser.wait_for("document.getElementById('message')?.textContent.includes('vmsgr page')")
    browser.open(page())   # in the same tab: only the part behind # differs
    browser.wait_for("at('message').textContent === '' && at('daemon').textContent.includes('up ')")
    with Held([s["thread"] for s in daemon.status()["shards"]]):
        browser.wait_for("at('shards').innerText.includes('stopped') && at('picture').textContent.includes('2 not running')")
    browser.wait_for("!at('picture').textContent.includes('not running')")


BAD = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\"'&amp;"


def made_hostile(value):
    """The document with every text in it replaced, the words that the page itself looks for excepted."""
    if isinstance(value, dict):
        return {k: made_hostile(v) for k, v in value.items()}
    if isinstance(value, list):
        return [made_hostile(v) for v in value]
    return BAD if isinstance(value, str) and value not in ("client", "server", "direct", "trunk") else value


class Hostile(http.server.BaseHTTPRequestHandler):
    """The daemon's own page with its own policy, and a document in which each text is an attack."""
    daemon, key = None, None

    def do_GET(self):
        code, body, head = ask(self.daemon, self.key, path=self.path)
        self.send_response(code)
        if self.path == "/status.json":
            trunk = {"name": "", "address": "", "state": "", "outgoing": True, "shard": 0, "lane": 0, "channels": 1, "rtt_us": 5,
                     "in_flight_bytes": 0, "encrypted": False, "bytes_in": 0, "bytes_out": 0}
            body["trunks"] = [trunk]
            body["daemon"]["uptime_s"] = time.monotonic()
            body = json.dumps(made_hostile(body))
        else:
            self.send_header("Content-Security-Policy", re.search("Content-Security-Policy: (.*)", head)[1].strip())
        self.send_header("Content-Type", re.search("Content-Type: (.*)", head)[1].strip())
        self.end_headers()
        self.wfile.write(body.encode("utf-8"))

    def log_message(self, *_):
        pass


@browsers
def test_names_stay_text_whatever_they_are(browser, daemon, page, pair):
    Hostile.daemon, Hostile.key = daemon, page().partition("#")[2]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            browser.complaints.clear()
            browser.open(f"http://127.0.0.1:{server.server_address[1]}/")
            for table in ("programs", "connections", "trunks", "shards"):
                browser.wait_for(f"document.getElementById('{table}')?.innerText.includes('<img src=x')")
            assert browser.ask("document.querySelectorAll('img, main script').length") == 0
            assert browser.ask("document.title") == "VMSGR" and browser.complaints == []
            for attack in ("document.body.innerHTML = '<img src=x>'",
                           "document.createElement('script').textContent = 'document.title = 1'"):
                with pytest.raises(RuntimeError, match="TrustedHTML|TrustedScript"):
                    browser.ask(f"(() => {{ {attack} }})()")
        finally:
            browser.open("about:blank")
            server.shutdown()
