"""A real browser without a screen: Chromium, driven over its DevTools protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.servers import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_SECONDS = 60
_SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # it runs as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    "about:blank",
)


class Page:
    """A tab.

    Args:
        socket: Of the DevTools protocol.
        answers: What is answered to requests to other hosts than the loopback, by URL: content type and content.
    """

    def __init__(self, socket: ClientConnection, answers: Mapping[str, tuple[str, bytes]]) -> None:
        self._socket = socket
        self._answers = answers
        self._numbers = itertools.count(1)
        #: What the page has reported as an error, such as a break of the Content-Security-Policy.
        self.errors: list[str] = []
        #: Requests that left for other hosts and were not answered.
        self.strays: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self._do(f"{domain}.enable")
        self._do("Fetch.enable", patterns=[{"urlPattern": "*"}])

    def open(self, url: str) -> None:
        """Go to a URL."""
        self._do("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        result = self._do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def text(self, selector: str) -> str:
        """The text of the first element that matches, once there is one."""
        found = f"document.querySelector({json.dumps(selector)})"
        wait_until(lambda: self.evaluate(f"{found} !== null"), seconds=_SECONDS)
        return str(self.evaluate(f"{found}.innerText"))

    def wait_for(self, selector: str, text: str) -> None:
        """Return as soon as the first element that matches shows a text."""
        wait_until(lambda: text in self.text(selector), seconds=_SECONDS)

    def click(self, selector: str) -> None:
        """Click the first element that matches, once there is one."""
        self.text(selector)
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def type(self, selector: str, text: str) -> None:
        """Type into a field in the place of what is there."""
        self.text(selector)
        self.evaluate(f"(e => {{ e.focus(); e.select() }})(document.querySelector({json.dumps(selector)}))")
        self._do("Input.insertText", text=text)
        self.evaluate("document.activeElement.blur()")  # some fields tell of a change only when they are left

    def emulate(self, *, width: int, height: int, scheme: str = "light", media: str = "screen") -> None:
        """See pages as in a window of this size, by somebody who prefers this scheme of colours, on this medium."""
        self._do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._do("Emulation.setEmulatedMedia", media=media, features=features)

    def wait_for_errors(self, count: int) -> None:
        """Return as soon as the page has reported as many errors."""
        wait_until(lambda: self.evaluate("0") == 0 and len(self.errors) >= count, seconds=_SECONDS)

    def screenshot(self) -> bytes:
        """What a person would see, as PNG."""
        return base64.b64decode(self._do("Page.captureScreenshot")["data"])

    def _do(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = self._send(method, parameters)
        while True:
            message = json.loads(self._socket.recv(_SECONDS))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                result: dict[str, Any] = message["result"]
                return result
            self._take(message.get("method"), message.get("params", {}))

    def _send(self, method: str, parameters: Mapping[str, Any]) -> int:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        return number

    def _take(self, event: str | None, parameters: Mapping[str, Any]) -> None:
        if event == "Fetch.requestPaused":
            self._answer(parameters["requestId"], parameters["request"]["url"])
        elif event == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))

    def _answer(self, request: str, url: str) -> None:
        if url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self._send("Fetch.continueRequest", {"requestId": request})
        elif url in self._answers:
            kind, content = self._answers[url]
            headers = [{"name": "content-type", "value": kind}, {"name": "access-control-allow-origin", "value": "*"}]
            body = base64.b64encode(content).decode()
            parameters = {"requestId": request, "responseCode": 200, "responseHeaders": headers, "body": body}
            self._send("Fetch.fulfillRequest", parameters)
        else:
            self.strays.append(url)
            self._send("Fetch.failRequest", {"requestId": request, "errorReason": "BlockedByClient"})


@contextmanager
def browsing(answers: Mapping[str, tuple[str, bytes]]) -> Iterator[Page]:
    """A tab of a fresh browser, until the block ends. Nothing leaves the machine."""
    if CHROMIUM is None:
        raise RuntimeError("there is no Chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [CHROMIUM, f"--user-data-dir={folder}", *_SWITCHES], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            listening = Path(folder, "DevToolsActivePort")
            wait_until(lambda: listening.exists() and len(listening.read_text().split()) == 2, seconds=_SECONDS)
            port = listening.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=_SECONDS) as tabs:
                (tab,) = [tab for tab in json.load(tabs) if tab["type"] == "page"]
            with connect(tab["webSocketDebuggerUrl"], max_size=None) as socket:
                yield Page(socket, answers)
        finally:
            process.terminate()
            process.wait(_SECONDS)
