"""A headless browser for end-to-end tests: Chromium, driven over its DevTools protocol by a few lines of our own.

Set PARLEY_TEST_BROWSER to the path of a Chromium or Chrome that is not on PATH.
"""

import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from websockets.sync.client import ClientConnection, connect

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WAIT_S: Final = 20.0

_FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-port=0",
)
_POLL_S: Final = 0.02


def installed_browser() -> str | None:
    """Path of a browser that tests can use; None when there is none."""
    named = os.environ.get("PARLEY_TEST_BROWSER")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab.

    Attributes:
        requests: URLs that the tab has asked for.
        errors: what its console reported as an error, and exceptions that nobody caught.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.requests: list[str] = []
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **parameters: Any) -> Any:  # Any: JSON of the protocol
        """Send a command and return its result."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=WAIT_S))
            if message.get("id") != number:
                self._note(message)
                continue
            assert "error" not in message, f"{method}: {message['error']}"
            return message["result"]

    def open(self, url: str) -> None:
        """Go to a URL, or load it anew."""
        self.command("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:  # Any: whatever the script returns, as JSON
        """The value of a JavaScript expression; promises are awaited."""
        result = self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, script: str, *, within_s: float = WAIT_S) -> None:
        """Return as soon as a JavaScript expression is true."""
        deadline = time.monotonic() + within_s
        while not self.evaluate(f"Boolean({script})"):
            assert time.monotonic() < deadline, f"not within {within_s} s: {script}; the page shows {self.text()!r}"
            time.sleep(_POLL_S)

    def wait_for_text(self, text: str, *, within_s: float = WAIT_S) -> None:
        """Return as soon as the page shows a text."""
        self.wait_for(f"document.body.innerText.includes({json.dumps(text)})", within_s=within_s)

    def text(self) -> str:
        """What the page shows."""
        return str(self.evaluate("document.body.innerText"))

    def click(self, selector: str) -> None:
        """Click an element as soon as it is there, where its middle is."""
        self.wait_for(_visible(selector))
        point = self.evaluate(
            f"(e => {{ e.scrollIntoView({{block: 'nearest'}}); const b = e.getBoundingClientRect();"
            f" return [b.x + b.width / 2, b.y + b.height / 2] }})(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=point[0], y=point[1], button="left", clickCount=1)

    def type(self, text: str, *, into: str | None = None) -> None:
        """Type into an element, or into what has the focus."""
        if into is not None:
            self.click(into)
        self.command("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key by its name, such as `Enter`, `Tab` or `Escape`."""
        codes = {"Enter": (13, "\r"), "Tab": (9, "\t"), "Escape": (27, "")}
        code, text = codes[key]
        common: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.command("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.command("Input.dispatchKeyEvent", type="keyUp", **common)

    def choose_files(self, selector: str, files: Sequence[Path]) -> None:
        """Choose files in a file input."""
        root = self.command("DOM.getDocument")["root"]["nodeId"]
        node = self.command("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.command("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def prefer(self, scheme: str) -> None:
        """Prefer a `light` or a `dark` page."""
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def _note(self, message: dict[str, Any]) -> None:  # Any: an event of the protocol
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(str(message["params"]["exceptionDetails"]))
            case "Log.entryAdded" if message["params"]["entry"]["level"] == "error":
                self.errors.append(message["params"]["entry"]["text"])


@contextmanager
def browsing(browser: str) -> Iterator[Page]:
    """A fresh browser with one tab; both are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="parley-browser-", ignore_cleanup_errors=True) as profile:
        command = [browser, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = _port(Path(profile), process)
            tabs = httpx.get(f"http://127.0.0.1:{port}/json/list").json()
            address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            with connect(address, max_size=None, proxy=None) as socket:
                yield Page(socket)
        finally:
            process.terminate()
            process.wait()


def _port(profile: Path, process: subprocess.Popen[bytes]) -> int:
    file, deadline = profile / "DevToolsActivePort", time.monotonic() + WAIT_S
    while not (file.exists() and file.read_text().strip()):
        assert process.poll() is None, "the browser ended at once"
        assert time.monotonic() < deadline, "the browser did not start"
        time.sleep(_POLL_S)
    return int(file.read_text().splitlines()[0])


def _visible(selector: str) -> str:
    return f"(e => e && e.getClientRects().length)(document.querySelector({json.dumps(selector)}))"
