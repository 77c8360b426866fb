"""A headless Chromium with a fake camera, driven over the DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image
from websockets.sync.client import ClientConnection, connect

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
    "--disable-background-networking", "--disable-component-update", "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0", "--remote-allow-origins=*",
)  # fmt: skip


def write_camera(path: Path, scenes: Iterable[tuple[Image.Image, tuple[int, int]]]) -> Path:
    """Write what a fake camera plays: in each picture, 640 x 480, a head stands at a place."""
    with path.open("wb") as out:
        for head, place in scenes:
            picture = Image.new("RGB", (640, 480), (60, 60, 66))
            picture.paste(head, place)
            picture.save(out, "JPEG", quality=88)
    return path


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.errors: list[str] = []
        self.choosers = 0  # file choosers that were opened, while they are caught
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, and its result."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(message["params"]["exceptionDetails"].get("exception", {}).get("description", "?"))
            elif message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(message["params"]["entry"]["text"])
            self.choosers += message.get("method") == "Page.fileChooserOpened"
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def run(self, code: str) -> Any:
        """The value of an expression on the page; promises are awaited."""
        result = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, code: str, seconds: float = 30) -> Any:
        """The value of an expression as soon as it is true."""
        until = time.monotonic() + seconds
        while True:
            value = self.run(code)
            if value:
                return value
            assert time.monotonic() < until, f"never came: {code}; the page says {self.sentences()}"
            time.sleep(0.1)

    def sentences(self) -> str:
        """All sentences on the page."""
        return self.run(
            "document.getElementById('state').innerText + ' | ' + document.getElementById('notices').innerText"
        )

    def click(self, name: str) -> None:
        """Click on the element with this id."""
        self.run(f"document.getElementById('{name}').click()")

    def says(self, sentence: str, seconds: float = 30) -> None:
        """Wait for a notice."""
        self.wait(f"document.getElementById('notices').innerText.includes({sentence!r})", seconds)

    def goes_on(self, count: int = 3) -> None:
        """Wait for so many more pictures."""
        shown = self.run("Number(document.body.dataset.results || 0)")
        self.wait(f"Number(document.body.dataset.results) >= {shown + count}", 60)

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def choose(self, selector: str, path: Path) -> None:
        """Put a file into a file input, as a user does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def press(self, key: str) -> None:
        """A key goes down and up: Tab, Enter, " ", ArrowLeft, ..."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39}
        text = {"Enter": {"text": "\r"}, " ": {"text": " "}}.get(key, {})
        code = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def named(self) -> list[tuple[str, str]]:
        """Role and name of everything that takes the focus, as assistive technology is told."""
        elements = []
        for node in self.call("Accessibility.getFullAXTree")["nodes"]:
            about = {entry["name"]: entry["value"].get("value") for entry in node.get("properties", [])}
            if not node["ignored"] and about.get("focusable") and node["role"]["value"] != "RootWebArea":
                elements.append((node["role"]["value"], node.get("name", {}).get("value", "")))
        return elements

    def screenshot(self, path: Path, width: int = 1280, height: int = 800) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        time.sleep(0.3)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


class Chromium:
    """The browser; a context manager that leaves no process behind.

    Args:
        folder: for its profile.
        camera: a y4m or mjpeg file that plays in a loop as the camera; None for a machine without one.
        allow: whether the user allows the camera.
    """

    def __init__(
        self, folder: Path, camera: Path | None = None, allow: bool = True, flags: tuple[str, ...] = ()
    ) -> None:
        fake: tuple[str, ...] = ()
        if camera is not None:
            fake = ("--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={camera}")
        if allow:
            fake += ("--use-fake-ui-for-media-stream",)
        elif camera is not None:
            fake += ("--deny-permission-prompts",)
        self._folder = folder / "chromium"
        assert BINARY is not None
        self._process = subprocess.Popen(
            [BINARY, *FLAGS, *fake, *flags, f"--user-data-dir={self._folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._sockets = ExitStack()

    def __enter__(self) -> Chromium:
        port_file = self._folder / "DevToolsActivePort"
        until = time.monotonic() + 60
        while not (port_file.exists() and "\n" in port_file.read_text()):
            assert self._process.poll() is None and time.monotonic() < until, "chromium did not start"
            time.sleep(0.1)
        self._port = int(port_file.read_text().split()[0])
        return self

    def __exit__(self, *error: object) -> None:
        self._sockets.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def page(self) -> Page:
        """A new tab."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            address = json.load(answer)["webSocketDebuggerUrl"]
        return Page(self._sockets.enter_context(connect(address, max_size=None)))
