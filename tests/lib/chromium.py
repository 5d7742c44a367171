"""A headless Chromium, driven through a pipe in its DevTools protocol: JSON messages that end in a NUL."""
import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

PROGRAM = os.environ.get("VMSGR_CHROMIUM", "chromium")


def why_not():
    """None, or why there is no browser."""
    return None if shutil.which(PROGRAM) else "chromium is not installed (apt install chromium, or set VMSGR_CHROMIUM)"


class Browser:
    """One page. What it complains of (console, exceptions, what its policy forbids) is in `complaints`."""

    def __init__(self, width=1280, height=900):
        self.complaints, self._last, self._data, self._answers = [], 0, b"", {}
        self._profile = tempfile.TemporaryDirectory(prefix="vb-", dir="/tmp")
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()

        def at_3_and_4():
            a, b = os.dup(to_read), os.dup(to_write)   # neither is 3 or 4 after this: those are taken
            os.dup2(a, 3)
            os.dup2(b, 4)
        words = [PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                 "--no-first-run", "--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}",
                 f"--window-size={width},{height}", "about:blank"]
        self._process = subprocess.Popen(words, preexec_fn=at_3_and_4, pass_fds=(3, 4), stdin=subprocess.DEVNULL,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        os.close(to_read)
        os.close(to_write)
        self._session = None
        target = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"][0]["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def _take(self, message):
        if "id" in message:
            self._answers[message["id"]] = message
        elif message["method"] == "Runtime.exceptionThrown":
            details = message["params"]["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif message["method"] == "Log.entryAdded":
            entry = message["params"]["entry"]
            self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
        elif message["method"] == "Page.javascriptDialogOpening":
            self.complaints.append("a dialogue: " + message["params"]["message"])

    def _receive(self, until):
        left = until - time.monotonic()
        if left <= 0 or not select.select([self._read], [], [], left)[0]:
            raise TimeoutError("chromium does not answer")
        piece = os.read(self._read, 1 << 16)
        if not piece:
            raise EOFError("chromium has ended")
        *whole, self._data = (self._data + piece).split(b"\0")
        for one in whole:
            self._take(json.loads(one))

    def call(self, method, **params):
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + 60
        while self._last not in self._answers:
            self._receive(until)
        answer = self._answers.pop(self._last)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, url):
        self.call("Page.navigate", url=url)

    def ask(self, expression):
        """The value of a JavaScript expression in the page; RuntimeError where it throws."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"].get("exception", {}).get("description", "it threw"))
        return done["result"].get("value")

    def wait_for(self, expression, seconds=20):
        until = time.monotonic() + seconds
        while True:
            value = self.ask(expression)
            if value:
                return value
            if time.monotonic() > until:
                raise AssertionError(f"never true: {expression}\n{self.ask('document.body.innerText')}\n{self.complaints}")
            time.sleep(0.1)

    def scheme(self, name):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def picture(self, path):
        """All of the page, as a PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        with open(path, "wb") as f:
            f.write(base64.b64decode(data))

    def close(self):
        try:
            self._session = None
            self.call("Browser.close")
        except (OSError, EOFError, TimeoutError):
            pass
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()
        os.close(self._read)
        os.close(self._write)
        self._profile.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
