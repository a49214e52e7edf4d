"""A headless Chromium for tests of the page, driven over a pipe: no driver and no network."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SECONDS = 30  # for which an answer is waited
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-pipe",
)


class Browser:
    """One tab. `complaints` are what the console, the log or an uncaught error said."""

    def __init__(self, profile: Path) -> None:
        theirs, self.out = os.pipe()
        self.into, ours = os.pipe()
        command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        # The browser reads descriptor 3 and writes 4, which may be taken here: 5 and 6 go between.
        moved = f'exec 5<&{theirs} 6>&{ours}; exec "$@" 3<&5 4>&6'
        shell = ["bash", "-c", moved, "bash", *command]
        self.process = subprocess.Popen(
            shell, pass_fds=(theirs, ours), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs)
        os.close(ours)
        self.numbers, self.buffer, self.session = itertools.count(1), b"", ""
        self.complaints: list[str] = []
        self.loaded = False
        tabs = self.call("Target.getTargets")["targetInfos"]
        tab = next(found["targetId"] for found in tabs if found["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=tab, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.out)  # the browser ends with its pipe
        os.close(self.into)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                found: dict[str, Any] = answer["result"]
                return found

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            assert select.select([self.into], [], [], SECONDS)[0], "the browser says nothing"
            data = os.read(self.into, 1 << 16)
            assert data, "the browser has ended"
            self.buffer += data
        text, _, self.buffer = self.buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        method = message.get("method", "")
        if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.complaints.append(str(message["params"]))
        self.loaded |= method == "Page.loadEventFired"
        return message

    def open(self, path: Path, fragment: str = "") -> None:
        for url in ("about:blank", f"file://{path}{fragment}"):  # else a fragment loads nothing
            self.loaded = False
            self.call("Page.navigate", url=url)
            while not self.loaded:
                self._read()

    def run(self, expression: str) -> Any:
        """The value of a script that runs in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """A key by its name, such as Tab, or a printable one."""
        text = {"Enter": "\r", " ": " "}.get(key, key if len(key) == 1 else "")
        code = {"Enter": 13, "Tab": 9, "Escape": 27}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                text=text if kind == "keyDown" else "",
                windowsVirtualKeyCode=code,
            )

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 800,
        )

    def prefer(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self) -> bytes:
        """What is seen, as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])
