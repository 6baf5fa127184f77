"""A headless Chromium, driven over WebDriver's plain HTTP: enough for the tests of pages."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def missing() -> str:
    """Why there is no browser here; empty when there is one."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not installed (Debian: chromium-driver)" if absent else ""


class Browser:
    """One window. Every method waits until the browser has answered."""

    def __init__(self, profile: Path) -> None:
        # Port 0: the driver picks a free one and says which.
        self.driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True
        )
        self.base = f"http://127.0.0.1:{self._port()}/session"
        options = {
            "binary": shutil.which("chromium"),
            "args": [*FLAGS, f"--user-data-dir={profile}"],
        }
        capabilities = {
            "goog:chromeOptions": options,
            "timeouts": {"script": 5_000, "pageLoad": 15_000},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        made = self._call("POST", "", {"capabilities": {"alwaysMatch": capabilities}})
        self.base += f"/{made['sessionId']}"

    def _port(self) -> int:
        for line in self.driver.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                return int(found[1])
        raise RuntimeError("chromedriver did not start")

    def _call(self, method: str, path: str, body: dict | None = None) -> Any:
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self.base + path, data, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)["value"]

    def close(self) -> None:
        self._call("DELETE", "")
        self.driver.terminate()
        self.driver.wait(10)

    def screen(self, width: int, height: int, *, dark: bool = False, mobile: bool = False) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, page: Path | str) -> None:
        self.go(page if isinstance(page, str) else page.resolve().as_uri())
        self.wait_for("return document.body.dataset.ready === 'true'")

    def go(self, url: str) -> None:
        """To a page of any kind; `open` waits until a report has drawn itself."""
        self.console()
        self.requests()
        self._call("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait_for(self, script: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not self.run(script):
            if time.monotonic() > end:
                raise AssertionError(
                    f"still not true after {seconds} s: {script}\n{self.console()}"
                )
            time.sleep(0.05)

    def settle(self) -> None:
        """Until everything asked for has been drawn."""
        script = (
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
        )
        self._call("POST", "/execute/async", {"script": script, "args": []})

    def click(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).click()", selector)
        self.settle()

    def point(self, selector: str) -> None:
        """A click of the mouse, which also moves the focus."""
        place = """const r = document.querySelector(arguments[0]).getBoundingClientRect();
            return [r.left + r.width / 2, r.top + r.height / 2]"""
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)
        x, y = (int(value) for value in self.run(place, selector))
        moves = [
            {"type": "pointerMove", "duration": 0, "x": x, "y": y, "origin": "viewport"},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        mouse = {"type": "pointer", "id": "m", "parameters": {"pointerType": "mouse"}}
        self._call("POST", "/actions", {"actions": [{**mouse, "actions": moves}]})
        self.settle()

    def press(self, key: str) -> None:
        """A real key press, to whatever has the focus. Keys as in WebDriver, "\\ue014" = →."""
        strokes = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._call(
            "POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": strokes}]}
        )
        self.settle()

    def canvas(self, number: int = 0) -> str:
        """All pixels of a canvas, as text to compare."""
        script = "return document.querySelectorAll('#planes canvas')[arguments[0]].toDataURL()"
        return str(self.run(script, number))

    def console(self) -> list[str]:
        """Messages of the console since the last call."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Addresses asked for since the last call, by the page or on its behalf."""
        entries = self._call("POST", "/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in entries]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def screenshot(self, path: Path, *, whole: bool = True) -> Path:
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path
