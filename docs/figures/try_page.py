"""Takes docs/figures/try.jpg: the page of `icmformer try` with two objects, in Chromium.

python docs/figures/try_page.py [WEIGHTS]

Needs playwright and a Chromium (ICMFORMER_CHROMIUM, else the one in PATH). The photo is scikit-image's `astronaut`
(public domain, NASA); the masks are the engine's own.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from skimage import data

COMMAND = [sys.executable, "-m", "icmformer", "try", "--no-browser", "--weights"]
CLICKS = [(220, 350, "left"), (256, 210, "left")]
"""On the first object: x, y in pixels of the photo, and the mouse button."""
BOX = (352, 2, 482, 288)
"""Around the second one."""
WINDOW = {"width": 1200, "height": 750}
MOST = 200 * 1000  # bytes


def work(page: Page) -> None:
    """Clicks and drags as a person would."""
    view = json.loads(page.get_attribute("#canvas", "data-view") or "")
    corner = page.locator("#canvas").bounding_box()
    assert corner

    def place(x: float, y: float) -> tuple[float, float]:
        return corner["x"] + view["x"] + x * view["scale"], corner["y"] + view["y"] + y * view["scale"]

    def answered(act: Callable[[], None]) -> None:
        with page.expect_response(lambda reply: reply.url.endswith("/mask")):
            act()
        page.wait_for_load_state("networkidle")

    def drag() -> None:
        page.mouse.move(*place(*BOX[:2]))
        page.mouse.down()
        page.mouse.move(*place(*BOX[2:]), steps=5)
        page.mouse.up()

    for x, y, button in CLICKS:
        answered(partial(page.mouse.click, *place(x, y), button=button))
    page.keyboard.press("n")
    answered(drag)
    page.wait_for_timeout(300)


def encoded(picture: bytes) -> bytes:
    """A JPEG, as good as there is room for."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    for quality in range(92, 40, -2):
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality, optimize=True, progressive=True)
        if out.tell() < MOST:
            return out.getvalue()
    raise ValueError(f"there is no room for it in {MOST} bytes")


def main(weights: str) -> None:
    """Starts the command on a photo, works on the page, and takes its picture."""
    chromium = os.environ.get("ICMFORMER_CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        photo = Path(folder, "astronaut.png")
        Image.fromarray(data.astronaut()).save(photo)
        server = subprocess.Popen([*COMMAND, weights, str(photo)], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout
            address = server.stdout.readline().partition(" on ")[2].partition(";")[0]
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport=WINDOW, color_scheme="light")
            page.goto(address)
            page.wait_for_selector("#canvas[data-view*=scale]")
            work(page)
            content = encoded(page.screenshot())
            browser.close()
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()
    Path(__file__).with_name("try.jpg").write_bytes(content)
    print(f"{len(content)} bytes")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "starter")
