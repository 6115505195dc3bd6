"""A headless Chromium, driven by the WebDriver protocol as plain HTTP: nothing but the browser has to be installed."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import pathlib
import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

CONTRAST = """
function parse(text) {
  var m = text.match(/[\\d.]+/g).map(Number), scale = text.indexOf("color(") === 0 ? 255 : 1;
  return m.slice(0, 3).map(function (v) { return v * scale; }).concat([m.length < 4 ? 1 : m[3]]);
}
function over(top, under) {
  return [0, 1, 2].map(function (i) { return top[i] * top[3] + under[i] * (1 - top[3]); }).concat([1]);
}
function light(c) {
  var p = c.slice(0, 3).map(function (v) {
    v /= 255;
    return v <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4);
  });
  return 0.2126 * p[0] + 0.7152 * p[1] + 0.0722 * p[2];
}
function ground(node) {
  var chain = [];
  for (; node; node = node.parentElement) { chain.push(parse(getComputedStyle(node).backgroundColor)); }
  return chain.reverse().reduce(function (under, top) { return over(top, under); }, [255, 255, 255, 1]);
}
var found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  var text = walker.currentNode.textContent.trim(), node = walker.currentNode.parentElement;
  if (!text || node.closest("svg, script, style, noscript")) { continue; }
  if (!node.checkVisibility({opacityProperty: true, visibilityProperty: true})) { continue; }
  var style = getComputedStyle(node), box = node.getBoundingClientRect();
  if (box.width < 2 || box.height < 2) { continue; }
  var under = ground(node), top = over(parse(style.color), under), a = light(top), b = light(under);
  var ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) {
    found.push(ratio.toFixed(2) + " " + node.tagName + "." + node.className + ": " + text.slice(0, 40));
  }
}
return found;
"""
"""Every visible text whose contrast to what lies under it is below 4.5 to 1 (WCAG 2.1, AA)."""


def missing() -> str:
    """What is not there to drive a browser; empty when all is."""
    return ", ".join(name for name in ("chromium", "chromedriver") if shutil.which(name) is None)


class Browser:
    """One session."""

    def __init__(self, address: str):
        self.address = address
        options = {
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
            "binary": shutil.which("chromium"),
        }
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self.session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def call(self, path: str, body: Any = None, method: str = "POST") -> Any:
        return self._call(method, f"/session/{self.session}{path}", body)

    def open(self, url: str, width: int, *, dark: bool = False) -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
        self.devtools("Emulation.setEmulatedMedia", scheme)
        self.call("/url", {"url": url})

    def devtools(self, command: str, parameters: Any) -> Any:
        return self.call("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def script(self, text: str) -> Any:
        return self.call("/execute/sync", {"script": text, "args": []})

    def press(self, *keys: str) -> None:
        """Presses and lets go of keys, one after the other."""
        steps = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": steps}]})

    def log(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("/se/log", {"type": kind})
        return found

    def errors(self) -> list[str]:
        """Messages of the console that are errors, since the last call."""
        return [one["message"] for one in self.log("browser") if one["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call."""
        messages = [json.loads(one["message"])["message"] for one in self.log("performance")]
        return [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]

    def picture(self, path: pathlib.Path) -> None:
        import base64

        path.write_bytes(base64.b64decode(self.call("/screenshot", method="GET")))


def _driver(attempts: int = 10) -> tuple[subprocess.Popen[str], str]:
    """A driver that listens, and its port.

    With `--port=0` the driver takes a free port of IPv4, then asks for the same one of IPv6, which another process may
    hold: it says so and ends. The next one draws another port.
    """
    for _ in range(attempts):
        driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        for line in driver.stdout or ():
            found = re.search(r"started successfully on port (\d+)", line)
            if found:
                return driver, found[1]
        driver.wait(30)
    raise RuntimeError(f"{attempts} drivers in turn ended before they listened")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser for the time of the block."""
    driver, port = _driver()
    try:
        browser = Browser(f"http://127.0.0.1:{port}")
        try:
            yield browser
        finally:
            browser.call("", method="DELETE")
    finally:
        driver.terminate()
        driver.wait(30)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def served(folder: pathlib.Path) -> Iterator[str]:
    """The address of a folder on the loopback interface."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
