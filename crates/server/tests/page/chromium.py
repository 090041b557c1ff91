"""A headless Chromium, driven over the pipe of its DevTools protocol: no package and no open port needed."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

FLAGS = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    # Nothing but this machine has an address.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, ""), "Space": (32, " ")}
SHIFT = 8
# Machines that build and test at once can be very slow.
PATIENCE_S = 120


class Browser:
    """One process of Chromium."""

    def __init__(self, program="chromium"):
        self.profile = tempfile.mkdtemp(prefix="page-test-")
        from_us, self._out = os.pipe()
        self._in, to_us = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4; moved out of their way first.
        ours = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (from_us, to_us)]
        flags = FLAGS + [f"--user-data-dir={self.profile}"] + (["--no-sandbox"] if os.geteuid() == 0 else [])
        shell = f'exec "$@" 3<&{ours[0]} 4>&{ours[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", program, *flags, "about:blank"], pass_fds=ours, stderr=subprocess.DEVNULL
        )
        for end in (*ours, from_us, to_us):
            os.close(end)
        self._buffer = b""
        self._last_id = 0
        self._listeners = {}

    def close(self):
        try:
            self.command("Browser.close")
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            shutil.rmtree(self.profile, ignore_errors=True)

    def command(self, method, session=None, **params):
        """Sends a command and returns its result; events that come first go to their listeners."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = self._receive(deadline, method)
            if answer.get("id") == self._last_id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            listener = self._listeners.get(answer.get("sessionId"))
            if listener and "method" in answer:
                listener(answer["method"], answer["params"])

    def _receive(self, deadline, waiting_for):
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium does not answer to {waiting_for}")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise RuntimeError("Chromium ended")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)

    def open(self, url):
        return Page(self, url)


class Page:
    """One tab, with storage of its own. Records every request and everything that went wrong in it."""

    def __init__(self, browser, url):
        self._browser = browser
        self.requests = []
        self.problems = []
        self._context = browser.command("Target.createBrowserContext")["browserContextId"]
        target = browser.command("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = browser.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        browser._listeners[self._session] = self._listen
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.command(f"{domain}.enable")
        self.command("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def close(self):
        self._browser.command("Target.disposeBrowserContext", browserContextId=self._context)

    def command(self, method, **params):
        return self._browser.command(method, self._session, **params)

    def _listen(self, method, params):
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{params['entry']['source']}: {params['entry']['text']}")

    def evaluate(self, expression):
        """The value of a JavaScript expression; a promise is waited for."""
        result = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise AssertionError(f"{expression}: {result['exceptionDetails']['exception'].get('description')}")
        return result["result"].get("value")

    def wait(self, expression, seconds=PATIENCE_S):
        """Waits until the expression is true, and returns its value (true for an element)."""
        expression = f"((value) => value instanceof Node || value)({expression})"
        deadline = time.monotonic() + seconds
        while True:
            try:
                value = self.evaluate(expression)
            except (RuntimeError, AssertionError):
                # While a document is replaced there is none to ask.
                value = None
            if value:
                return value
            if time.monotonic() > deadline:
                shown = self.evaluate("document.body.innerText")
                raise AssertionError(f"in vain after {seconds} s: {expression}\nproblems: {self.problems}\n{shown}")
            time.sleep(0.02)

    def text(self, selector):
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")

    def click(self, selector):
        """A real click in the middle of the element."""
        place = self.evaluate(
            "(() => { const e = document.querySelector(%s); e.scrollIntoView({block: 'nearest'});"
            " const r = e.getBoundingClientRect(); return {x: r.x + r.width / 2, y: r.y + r.height / 2}; })()"
            % json.dumps(selector)
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def press(self, key, modifiers=0):
        code, text = KEYS[key]
        base = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": code}
        down = "keyDown" if text else "rawKeyDown"
        self.command("Input.dispatchKeyEvent", type=down, modifiers=modifiers, text=text, **base)
        self.command("Input.dispatchKeyEvent", type="keyUp", modifiers=modifiers, **base)

    def type(self, text):
        self.command("Input.insertText", text=text)

    def emulate(self, scheme="light", width=1280, height=800, mobile=False):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", features=features)
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
        )

    def screenshot(self, path):
        data = base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"])
        Path(path).write_bytes(data)
        return data

    def accessible_nodes(self):
        """(role, name) of everything that a screen reader is told of."""
        nodes = self.command("Accessibility.getFullAXTree")["nodes"]
        value = lambda node, field: (node.get(field) or {}).get("value") or ""
        return [(value(node, "role"), value(node, "name")) for node in nodes if not node["ignored"]]
