"""Photos at a real page that are not plain ones, and clicks where a photo ends."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from demo.photos import sample_photos
from demo.studio import CONFIGS
from icmformer import LoadedImage
from tests.e2e.annotator import Annotator, clicks_of
from tests.ls_backend import test_rle

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
COFFEE = sample_photos()["coffee.jpg"]
INSIDE = 0.6  # pixels from an edge


def mask_of(regions, width, height):
    (region,) = [r for r in regions if "rle" in r["value"] and r["type"] == "brush"]
    return test_rle.decode(region["value"]["rle"]).reshape(height, width, 4)[..., 3] > 0


def test_a_click_at_a_corner_or_an_edge_finds_something(studio, page, engine):
    project = studio.project("e2e edges", CONFIGS["unified"], {"coffee.jpg": COFFEE})
    image = LoadedImage.from_bytes(COFFEE)
    height, width = image.pixels.shape[:2]
    annotator = Annotator(page, studio, project)
    annotator.show_whole()
    empty, others = [], []
    columns, rows = (INSIDE, width / 2, width - INSIDE), (INSIDE, height / 2, height - INSIDE)
    for place in [(x, y) for y in rows for x in columns if (x, y) != (width / 2, height / 2)]:
        annotator.click(place[0] / width, place[1] / height)
        (click,) = clicks_of(annotator.sent, image)
        assert abs(click.x - place[0]) < 0.5
        assert abs(click.y - place[1]) < 0.5
        expected = engine.segment(image, [click]).mask
        if not annotator.told:
            empty.append(place)
        elif not np.array_equal(mask_of(annotator.told, width, height), expected):
            others.append(place)
        annotator.reject()
    assert (empty, others) == ([], [])


def see_through():
    """A photo whose left part is transparent over noise, its middle half transparent, its right part opaque."""
    pixels = np.asarray(Image.open(io.BytesIO(COFFEE)).convert("RGB")).copy()
    pixels[:, :200] = np.random.default_rng(0).integers(0, 256, pixels[:, :200].shape)
    alpha = np.repeat(np.array([0, 128, 255], np.uint8), 200)[None].repeat(400, 0)
    return saved(np.dstack([pixels, alpha]), "PNG")


def saved(pixels, kind):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def test_a_photo_with_alpha_is_clicked_on_as_it_is_seen(studio, page, engine, decode):
    photo = see_through()
    project = studio.project("e2e alpha", CONFIGS["brush"], {"seen.png": photo})
    image = LoadedImage.from_bytes(photo, shown_by="label studio")
    annotator = Annotator(page, studio, project)
    annotator.click(0.62, 0.55)
    annotator.picture("alpha")
    sent = annotator.sent
    (region,) = [r for r in annotator.accept_and_submit()["result"] if r["type"] == "brushlabels"]
    expected = engine.segment(image, clicks_of(sent, image)).mask
    assert expected.any()
    np.testing.assert_array_equal(decode(region["value"]["rle"], 600, 400), expected)


def png(samples, bits, colour, *chunks):
    """A PNG that Pillow would not write: rows of samples, and what stands before them."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1).astype(">u2" if bits == 16 else "u1")
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", content), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def patches():
    """Files of 6 x 4 patches of 40 pixels each, by name."""
    rng = np.random.default_rng(1)

    def grown(values):
        return values.repeat(40, 0).repeat(40, 1)

    rgb = grown(rng.integers(0, 256, (4, 6, 3), np.uint8))
    alpha = grown(np.array([0, 1, 64, 128, 254, 255], np.uint8)[None].repeat(4, 0))[..., None]
    wide = np.array([0, 255, 257, 511, 1000, 4351, 9000, 20000, 32767, 32768, 50000, 65279]).reshape(2, 6)
    wide = grown(np.concatenate([wide, 65535 - wide])[..., None])
    indexes = grown((np.arange(24) % 6).reshape(4, 6, 1))
    palette = (b"PLTE", rng.integers(0, 256, 18, np.uint8).tobytes()), (b"tRNS", bytes([0, 255, 128, 64, 255]))
    return {
        "alpha.png": saved(np.dstack([rgb, alpha]), "PNG"),
        "alpha.bmp": saved(np.dstack([rgb, alpha]), "BMP"),
        "gray16.png": png(wide, 16, 0),
        "palette.png": png(indexes, 8, 3, *palette),
    }


def test_the_backend_sees_the_colours_that_the_page_shows(studio, page):
    """Read from a screenshot at the middle of each patch, in the light theme."""
    files = patches()
    project = studio.project("e2e colours", CONFIGS["unified"], files)
    tasks = studio.api("GET", f"/api/tasks?project={project}&page_size=100")["tasks"]
    wrong = {}
    for name, content in files.items():
        task = next(t["id"] for t in tasks if t["data"]["image"].endswith(name))
        page.goto(f"{studio.url}/projects/{project}/data?task={task}")
        page.wait_for_selector("canvas")
        page.wait_for_timeout(700)
        box = page.locator(".lsf-image img").bounding_box()
        screen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
        rows = (box["y"] + (np.arange(4) + 0.5) * box["height"] / 4).astype(int)
        columns = (box["x"] + (np.arange(6) + 0.5) * box["width"] / 6).astype(int)
        seen = screen[rows[:, None], columns]
        ours = LoadedImage.from_bytes(content, shown_by="label studio").pixels[20::40, 20::40].astype(int)
        if abs(seen - ours).max() > 2:
            wrong[name] = seen[abs(seen - ours).max(-1) > 2].tolist(), ours[abs(seen - ours).max(-1) > 2].tolist()
    assert not wrong
