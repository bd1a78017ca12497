"""The page of `icmformer try`, used as a person would, and what is seen of it."""

import base64
import io
import json

import numpy as np
from PIL import Image

from icmformer import Box, Click, LoadedImage
from tests.e2e.conftest import PICTURES

VIEWPORT = {"width": 1280, "height": 800}


class Page:
    """The page, used as a person would.

    Attributes:
        tab: The browser's.
        asked: What the browser requested, as (method, path below the address).
        wrong: Errors in its console.
        elsewhere: Requests that would leave the server.
    """

    def __init__(self, browser, address, photo=True, **options):
        self.address, self.asked, self.wrong, self.elsewhere = address, [], [], []
        self.context = browser.new_context(**{"viewport": VIEWPORT, "accept_downloads": True, **options})
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.context.on("request", lambda request: self._note(request))
        self.tab = self.context.new_page()
        self.tab.on("console", lambda said: said.type == "error" and self.wrong.append(said.text))
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.goto(address)
        if photo:
            self.ready()
        self.settle()

    def _note(self, request):
        if request.url.startswith(self.address):
            self.asked.append((request.method, request.url.removeprefix(self.address)))
        elif not request.url.startswith(("data:", "blob:")):
            self.elsewhere.append(request.url)

    def ready(self, name=""):
        """Waits for a photo."""
        self.tab.wait_for_selector(f"#name:has-text('{name}')")
        self.tab.wait_for_selector("#canvas[data-view*=scale]")
        self.settle()

    def settle(self):
        """Waits for all that is asked for, and for what is drawn of it."""
        self.tab.wait_for_load_state("networkidle")
        self.tab.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    @property
    def view(self):
        """Photo to canvas: scale, x and y in device pixels."""
        view = json.loads(self.tab.get_attribute("#canvas", "data-view"))
        return view["scale"], view["x"], view["y"]

    def place(self, x, y):
        """Where a point of the photo is in the window."""
        (scale, left, top), box = self.view, self.tab.locator("#canvas").bounding_box()
        ratio = self.tab.evaluate("() => devicePixelRatio")
        return box["x"] + (left + x * scale) / ratio, box["y"] + (top + y * scale) / ratio

    def answered(self, act):
        """What the page asked the server for by an act that asks for a mask, and the reply."""
        with self.tab.expect_response(lambda r: r.url.endswith("/mask"), timeout=60_000) as waiting:
            act()
        self.settle()
        return waiting.value.request.post_data_json, waiting.value.json()

    def click(self, x, y, **more):
        return self.answered(lambda: self.tab.mouse.click(*self.place(x, y), **more))

    def drag(self, start, end, act=None):
        def pull():
            self.tab.mouse.move(*self.place(*start))
            self.tab.mouse.down()
            self.tab.mouse.move(*self.place(*end), steps=4)
            self.tab.mouse.up()

        return (act or self.answered)(pull)

    def press(self, key):
        self.tab.keyboard.press(key)
        self.settle()

    def text(self, name):
        return self.tab.locator(f"#{name}").inner_text()

    def alert(self):
        """The message that is shown."""
        self.tab.wait_for_selector("#alert:not([hidden])")
        return self.tab.locator("#alert p").inner_text()

    def pixels(self):
        """(H, W, 4) of the canvas."""
        self.settle()
        address = self.tab.evaluate("() => document.querySelector('#canvas').toDataURL()")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGBA")).astype(
            int
        )

    def saved(self, name):
        """The file that a button saves: its name and content."""
        with self.tab.expect_download() as waiting:
            self.tab.click(f"#{name}")
        return waiting.value.suggested_filename, waiting.value.path().read_bytes()

    def picture(self, name):
        self.tab.screenshot(path=PICTURES / f"{name}.png")


def result_of(engine, photo, prompt):
    """The engine's, of what the page asked."""
    clicks = [Click(c["x"], c["y"], c["positive"]) for c in prompt["clicks"]]
    return engine.segment(LoadedImage.from_array(photo), clicks, Box(*prompt["box"]) if prompt["box"] else None)


def shown_mask(page, photo, clicks=()):
    """Where the canvas changes with the masks, and where on the canvas the photo's pixels are.

    Returns:
        (H, W) bool of the canvas; its (H, W) rows and columns of the photo, -1 outside; (H, W) whether that can be
        told, which it cannot below the marks of clicks.
    """
    with_masks = page.pixels()
    page.tab.uncheck("#shown")
    without = page.pixels()
    page.tab.check("#shown")
    scale, left, top = page.view
    lines, places = np.arange(with_masks.shape[0])[:, None], np.arange(with_masks.shape[1])[None]
    rows, columns = np.floor((lines + 0.5 - top) / scale), np.floor((places + 0.5 - left) / scale)
    inside = (rows >= 0) & (rows < photo.shape[0]) & (columns >= 0) & (columns < photo.shape[1])
    told = np.ones(inside.shape, bool)
    for x, y in clicks:
        told &= np.hypot(places - left - x * scale, lines - top - y * scale) > 12
    return (
        (with_masks != without).any(2),
        np.where(inside, rows, -1).astype(int),
        np.where(inside, columns, -1).astype(int),
        told,
    )


def assert_shown(page, photo, mask, clicks):
    """The masks seen are those of the engine, pixel for pixel of the canvas."""
    changed, rows, columns, told = shown_mask(page, photo, clicks)
    expected = np.where(rows >= 0, mask[rows, columns], False)
    assert expected.any()
    assert not (changed & ~expected & told).any()
    same = (changed == expected)[told & expected]
    assert same.mean() > 0.999  # where the photo has the overlay's very colour nothing changes


def as_dropped(page, files):
    """Drops files as the browser hands them to a page."""
    coded = [[name, base64.b64encode(content).decode()] for name, content in files.items()]
    transfer = page.tab.evaluate_handle(
        """files => {
            const transfer = new DataTransfer();
            for (const [name, coded] of files) {
                transfer.items.add(new File([Uint8Array.from(atob(coded), c => c.charCodeAt(0))], name));
            }
            return transfer;
        }""",
        coded,
    )
    page.tab.dispatch_event("#canvas", "drop", {"dataTransfer": transfer})


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
