"""A real headless Chromium for tests, driven over pipes by its DevTools protocol; needs no library beside Python's own.

What enters is a path or an expression of JavaScript, what leaves its value as JSON. Every message has a deadline, so a
browser that hangs fails a test instead of holding it up. `install_hint` says why tests with a browser are skipped.

Protocol: https://chromedevtools.github.io/devtools-protocol/, messages as JSON with NUL behind each, in to the
browser's descriptor 3, out of its descriptor 4.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEADLINE_S = 60.0  # for one answer; a busy machine may take seconds
DESKTOP = (1280, 900)
PHONE = (375, 812)


def program() -> str | None:
    """The browser on this machine, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


install_hint = "no chromium on PATH; Debian: apt-get install --no-install-recommends chromium"


class BrowserError(Exception):
    """The browser refused a command, gave no answer in time, or a script in the page threw."""


class Browser:
    """One running browser; `page()` opens a page of its own in it."""

    def __init__(self, profile: Path) -> None:
        found = program()
        if found is None:
            raise BrowserError(install_hint)
        flags = [
            *("--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run"),
            # Root, as in a container, may not use the sandbox; containers often have a small /dev/shm.
            *("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars", "--mute-audio"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-pings"),
        ]
        ends = [*os.pipe(), *os.pipe()]  # to the browser: 0 reads, 1 writes; from it: 2 reads, 3 writes
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]  # clear of 3 and 4
        for end in ends:
            os.close(end)
        into, self._write, self._read, out = high
        shell = ["bash", "-c", f'exec "$@" 3<&{into} 4>&{out} {into}<&- {out}>&-', "browser", found, *flags]
        self._process = subprocess.Popen(
            shell,
            pass_fds=(into, out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # its own processes end with it
        )
        os.close(into)
        os.close(out)
        self._buffer = b""
        self._last = 0
        self._events: list[dict[str, Any]] = []

    def close(self) -> None:
        """End the browser and all its processes."""
        with contextlib.suppress(BrowserError, OSError):
            self.call("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """One command of the protocol and its result."""
        self._last += 1
        number = self._last
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + DEADLINE_S
        while True:
            answer = self._next(deadline, method)
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error'].get('message')}")
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def event(self, session: str, *methods: str) -> dict[str, Any]:
        """The next event of one of these kinds; earlier ones that nobody took count."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            for place, event in enumerate(self._events):
                if event.get("sessionId") == session and event.get("method") in methods:
                    return self._events.pop(place)
            self._events.append(self._next(deadline, " or ".join(methods)))

    def put_back(self, events: list[dict[str, Any]]) -> None:
        """Events that were looked at and still count."""
        self._events += events

    def taken(self, session: str, *methods: str) -> list[dict[str, Any]]:
        """The events of these kinds that have come so far."""
        found = [e for e in self._events if e.get("sessionId") == session and e.get("method") in methods]
        self._events = [e for e in self._events if e not in found]
        return [event["params"] for event in found]

    def _next(self, deadline: float, awaited: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self._read, 1 << 20) if ready else b""
            if not part:
                raise BrowserError(f"{awaited}: {'the browser ended' if ready else f'no answer in {DEADLINE_S} s'}")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    @contextlib.contextmanager
    def page(self, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> Iterator[Page]:
        """An empty page of that many CSS pixels, closed when the block ends."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.resize(size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        try:
            yield page
        finally:
            self.call("Target.closeTarget", targetId=target)


class Page:
    """One page, with what it complained of and asked the network for."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol to this page."""
        return self._browser.call(method, self._session, **params)

    def resize(self, size: tuple[int, int]) -> None:
        """Give the page another size in CSS pixels; one as narrow as a phone behaves as on a phone."""
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def open(self, path: Path) -> None:
        """Load a file from disk, and wait for its load event; dialogs on the way are closed, and are complaints."""
        answer = self.call("Page.navigate", url=path.absolute().as_uri())
        if answer.get("errorText"):
            raise BrowserError(f"{path}: {answer['errorText']}")
        dialogs = []
        while True:
            event = self._browser.event(self._session, "Page.loadEventFired", "Page.javascriptDialogOpening")
            if event["method"] == "Page.loadEventFired":
                break
            dialogs.append(event)
            self.call("Page.handleJavaScriptDialog", accept=True)
        self._browser.put_back(dialogs)

    def run(self, expression: str) -> Any:
        """The value of an expression in the page, awaited where it is a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(f"{expression}: {details.get('exception', {}).get('description') or details['text']}")
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression is true in the page. Raises BrowserError where it never is."""
        self.run(
            f"new Promise((done, fail) => {{ const last = performance.now() + {DEADLINE_S * 500};"
            f"const look = () => {{ try {{ if ({condition}) return done(true) }} catch (error) {{ return fail(error) }}"
            "if (performance.now() > last) return fail(new Error('never true'));"
            "setTimeout(look, 10) }; look() })"
        )

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key, as a person at a keyboard would."""
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **typed)

    def complaints(self) -> list[str]:
        """What the page wrote to the console as an error or a warning, threw, was refused, or asked in a dialog."""
        said = []
        methods = ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening")
        for params in self._browser.taken(self._session, *methods):
            if "exceptionDetails" in params:
                said.append(str(params["exceptionDetails"].get("exception", {}).get("description")))
            elif "entry" in params:
                said.append(str(params["entry"]["text"]))
            else:
                said.append(f"dialog: {params.get('message')}")
        for params in self._browser.taken(self._session, "Runtime.consoleAPICalled"):
            if params["type"] in ("error", "warning", "assert"):
                said += [" ".join(str(value.get("value")) for value in params["args"])]
        return said

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last call, less what the page made itself (data:, blob:)."""
        asked = [params["request"]["url"] for params in self._browser.taken(self._session, "Network.requestWillBeSent")]
        return [url for url in asked if not url.startswith(("data:", "blob:"))]

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """What the page looks like, as PNG: the part in view, or all of it."""
        clip: dict[str, Any] = {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}
        image = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **clip)["data"]
        path.write_bytes(base64.b64decode(image))
