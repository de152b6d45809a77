"""A headless Chromium that a test drives through its debugging pipe: real keys and real clicks, no package beside it."""

import json
import os
import select
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "ArrowUp": 38, "Home": 36, "End": 35, "Tab": 9, "Enter": 13, "Escape": 27}
SECONDS = 20


def find_browser() -> str | None:
    """The program, None where none is on the PATH or the system has no pipes to hand on."""
    return next((path for name in NAMES if (path := shutil.which(name))), None) if os.name == "posix" else None


class Page:
    """A page that is open: what it shows, and what a user does to it.

    Attributes:
        problems: what the page's scripts threw, and addresses beside the page that it asked for.
    """

    def __init__(self, write, read):
        self._write, self._read, self._buffer, self._number, self._session = write, read, b"", 0, None
        self.problems: list[str] = []

    def send(self, method: str, **parameters) -> dict:
        """A command of the Chrome DevTools Protocol and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | ({"sessionId": self._session} if self._session else {})
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], SECONDS)
            assert ready, "the browser does not answer"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict) -> None:
        if event["method"] == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(event["params"]["exceptionDetails"]))
        if event["method"] == "Network.requestWillBeSent":
            address = event["params"]["request"]["url"]
            if not address.startswith(("data:", "file:")) or event["params"]["type"] != "Document" and address.startswith("file:"):
                self.problems.append(f"asked for {address}")

    def open(self, path: Path, width: int = 1400, height: int = 900) -> None:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        for domain in ("Page", "Runtime", "Network"):
            self.send(f"{domain}.enable")
        self.send("Page.navigate", url=path.resolve().as_uri())
        while (event := self._next()).get("method") != "Page.loadEventFired":
            self._note(event)

    def value(self, expression: str):
        """Of a JavaScript expression."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def texts(self, selector: str) -> list[str]:
        """What is shown in each element; elements that are not shown are left out."""
        return self.value(f"[...document.querySelectorAll({json.dumps(selector)})].filter(e => e.checkVisibility()).map(e => e.textContent)")

    def press(self, key: str, times: int = 1) -> None:
        """A key of the keyboard, where the focus is."""
        code = KEYS[key]
        for _ in range(times):
            for kind in ("rawKeyDown", "keyUp"):
                self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def focus(self, selector: str) -> None:
        self.value(f"document.querySelector({json.dumps(selector)}).focus()")

    def click(self, selector: str, across: float = 0.5) -> None:
        """With the mouse, at a part of the element's width from its left."""
        script = "(e => { e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; })"
        x, y, width, height = self.value(f"{script}(document.querySelector({json.dumps(selector)}))")
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x + across * width, y=y + height / 2, button="left", clickCount=1)


@contextmanager
def browser(program: str, profile: Path):
    """Start it, yield a `Page`, and end it."""
    to_browser, from_browser = os.pipe(), os.pipe()
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={profile}"]
    # the browser reads its commands from file descriptor 3 and answers on 4
    shell = f'exec "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
    command = ["bash", "-c", shell, "bash", program, *words, "--remote-debugging-pipe", "about:blank"]
    process = subprocess.Popen(command, pass_fds=(to_browser[0], from_browser[1]), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    os.close(to_browser[0])
    os.close(from_browser[1])
    page = Page(to_browser[1], from_browser[0])
    try:
        yield page
        page._session = None
        page.send("Browser.close")
        process.wait(SECONDS)
    finally:
        process.kill()
        process.wait()
        os.close(to_browser[1])
        os.close(from_browser[0])
