"""Pages of this project in a real browser: Chromium without a head, from disk, no server and no network."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
READY = ".viewer.ready"
PATIENCE_MS = 240_000  # SwiftShader on a machine that others use: waits end with what they wait for


def launched() -> Iterator[Any]:
    """Chromium, closed at the end; the test is skipped where it or Playwright is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (extra `dev`)")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)} is on the path")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield chromium
        chromium.close()


class Opened:
    """A page from disk, with what it asked for and complained of."""

    def __init__(self, browser: Any, path: Path, width: int = 1400) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 700}, accept_downloads=True)
        self.page.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(READY)
        self.page.evaluate("document.querySelector('.viewer').scrollIntoView({behavior: 'instant'})")

    @property
    def foreign(self) -> list[str]:
        return [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))]

    def text(self, show: str) -> str:
        return self.page.inner_text(f"[data-show={show}]")

    @property
    def scan(self) -> str:
        return self.page.get_attribute(".viewer", "data-scan")

    def key(self, key: str) -> None:
        self.page.keyboard.press(key)

    def wait_for_scan(self, name: str) -> None:
        self.page.wait_for_selector(f".viewer[data-scan='{name}']")

    def place_of(self, name: str) -> int:
        """Place of a scan in the list."""
        titles = self.page.locator("[data-show=scan] option").all_inner_texts()
        return next(place for place, title in enumerate(titles) if title.removeprefix("⚑ ").split(" · ")[0] == name)

    def drawn(self) -> None:
        """Waits until what was asked for before is on the screen."""
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def canvas(self) -> np.ndarray:
        """(H, W, 3) as it is on the screen."""
        self.drawn()
        return self.picture_of(".viewer canvas")

    def picture_of(self, selector: str) -> np.ndarray:
        """(H, W, 3) of an element as it is on the screen."""
        return np.asarray(Image.open(io.BytesIO(self.page.locator(selector).screenshot())).convert("RGB"), int)

    def coloured(self) -> int:
        picture = self.canvas()
        return int((picture.max(axis=-1) - picture.min(axis=-1) > 30).sum())

    def chips(self) -> list[str]:
        return self.page.locator(".viewer-chips button").all_inner_texts()

    def choose(self, name: str) -> None:
        self.page.locator(f".viewer-chips button:text-is('{name}')").click()

    def point_at(self, name: str) -> tuple[float, float]:
        """Moves the pointer to a structure, as a person does: until its name stands beside the pointer."""
        box = self.page.locator(".viewer canvas").bounding_box()
        label = self.page.locator(".viewer-name")
        for row in range(6, 96, 2):
            for column in range(30, 72, 3):
                place = box["x"] + box["width"] * column / 100, box["y"] + box["height"] * row / 100
                self.page.mouse.move(*place)
                if label.is_visible() and label.inner_text().split(" · ")[0].split(",")[0] == name:
                    return place
        raise AssertionError(f"{name} is nowhere in the picture")

    def corrections(self) -> dict[str, Any]:
        """What the page hands over, by its button."""
        with self.page.expect_download() as waiting:
            self.page.click("[data-do=download]")
        assert waiting.value.suggested_filename == "corrections.json"
        return json.loads(Path(waiting.value.path()).read_text(encoding="utf-8"))
