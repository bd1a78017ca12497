"""Draws docs/figures/cvat_help.webp, two clicks on a photo, and puts it into the function files, for CVAT's tooltip.

python docs/figures/cvat_help.py [WEIGHTS]

CVAT's page takes the annotation `animated_gif` for an image's address, so the picture itself can stand there as a data
address: CVAT then fetches nothing. nuctl hands all annotations to Docker within one command line, of which Linux takes
128 KiB at most and Windows 32 KiB; a small WebP leaves room. The photo is scikit-image's `coffee` (CC0, by Rachel
Michetti); the masks are the engine's own.
"""

import base64
import io
import re
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from icmformer import Click, Engine, LoadedImage
from icmformer.images.masks import overlay

ROOT = Path(__file__).parents[2]
FILES = ("serverless/function.yaml", "serverless/function-gpu.yaml", "deploy/nuclio/function-k8s-gpu.yaml")
CLICKS = [Click(400.5, 180.5), Click(450.5, 200.5, False)]
SIZE, BAR = (320, 213), 27  # of the photo, width first, and of the words above it
COMMENT = "# The tooltip's picture: docs/figures/cvat_help.webp, put here by the script beside it."
MOST = 16 * 1024  # characters of the annotation


def frames(engine: Engine) -> list[tuple[Image.Image, int]]:
    """The pictures, and for how many milliseconds each is shown."""
    photo = data.coffee()
    image, nothing = LoadedImage.from_array(photo), np.zeros(photo.shape[:2], bool)
    first, both = (engine.segment(image, CLICKS[:count]).mask for count in (1, 2))
    left, right = "Left click on the object", "Right click on what is too much"
    return [
        (picture(photo, nothing, [], left), 1200),
        (picture(photo, nothing, CLICKS[:1], left), 500),
        (picture(photo, first, CLICKS[:1], left), 1500),
        (picture(photo, first, CLICKS, right), 900),
        (picture(photo, both, CLICKS, right), 1200),
        (picture(photo, both, CLICKS, "Done saves the mask"), 1800),
    ]


def picture(photo: NDArray[np.uint8], mask: NDArray[np.bool_], clicks: list[Click], words: str) -> Image.Image:
    """One picture: words, and below them the photo with its mask and clicks."""
    canvas = Image.new("RGB", (SIZE[0], SIZE[1] + BAR), (32, 32, 32))
    canvas.paste(Image.fromarray(overlay(photo, mask)).resize(SIZE, Image.Resampling.LANCZOS), (0, BAR))
    draw = ImageDraw.Draw(canvas)
    for click in clicks:
        x, y = click.x * SIZE[0] / photo.shape[1], click.y * SIZE[1] / photo.shape[0] + BAR
        fill = (0, 170, 60) if click.positive else (220, 40, 40)
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill, "white", 2)
    draw.text((SIZE[0] / 2, BAR / 2), words, "white", ImageFont.load_default(16), "mm")
    return canvas


def encoded(shown: list[tuple[Image.Image, int]]) -> bytes:
    """An animated WebP, as good as there is room for."""
    pictures, durations = zip(*shown, strict=True)
    for quality in range(80, 0, -5):
        out = io.BytesIO()
        pictures[0].save(
            out, "WEBP", save_all=True, append_images=pictures[1:], duration=durations, quality=quality, method=6,
            minimize_size=True, loop=0,
        )  # fmt: skip
        if len(address(out.getvalue())) <= MOST:
            return out.getvalue()
    raise ValueError(f"there is no room for it in {MOST} characters")


def address(content: bytes) -> str:
    """The data address of a WebP."""
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"


def main(weights: str) -> None:
    """Draws it and writes it into the function files."""
    content = encoded(frames(Engine.from_weights(weights, profile="exact")))
    Path(__file__).with_suffix(".webp").write_bytes(content)
    for name in FILES:
        text = re.sub(r" *# The tooltip's picture.*\n *animated_gif:.*\n", "", (ROOT / name).read_text())
        lines = rf'\g<0>\1{COMMENT}\n\1animated_gif: "{address(content)}"\n'
        text = re.sub(r"( *)help_message:.*\n", lines, text)
        (ROOT / name).write_text(text)
    print(f"{len(content)} bytes")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "starter")
