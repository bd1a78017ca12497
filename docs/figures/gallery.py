"""Draws the pictures of docs/gallery.md, docs/figures/gallery_*.webp, and brings the scores and IoUs on it up to date.

python docs/figures/gallery.py [WEIGHTS]

All photos come with scikit-image, whose documentation gives each as CC0 or in the public domain. An IoU is that with an
outline drawn by hand, below; of the cell, with all that is brighter than Otsu's threshold. What the page says of a mask
in words is for whoever runs this to read again; a test compares the numbers with what the engine says.
"""

import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage import color, data, filters, measure

from icmformer import Box, Click, Engine, LoadedImage, MaskResult
from icmformer.images.masks import overlay

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "gallery.md"
WIDTH, GAP, MOST = 400, 8, 45_000  # of a panel and between panels, in pixels; of a file, in bytes

TOLD = re.compile(r"[A-Z0-9][\w ]*: score \d\.\d\d(?:, IoU \d\.\d\d)?\.")

Points = list[tuple[int, int]]


@dataclass(frozen=True)
class Step:
    """One answer of the engine.

    Attributes:
        clicks: x, y, and whether it is positive.
        box: x1, y1, x2, y2.
        shown: Whether there is a panel of it.
    """

    clicks: tuple[tuple[float, float, bool], ...] = ()
    box: tuple[float, float, float, float] | None = None
    shown: bool = True

    @property
    def words(self) -> str:
        """What the annotator did."""
        count = len(self.clicks)
        clicks = f"{count} click{'s' if count != 1 else ''}" if count else ""
        box = "a box" if self.box else ""
        return " and ".join(filter(None, (box, clicks))).capitalize()


@dataclass(frozen=True)
class Entry:
    """One object of the gallery.

    Attributes:
        name: Of its picture.
        photo: The function of `skimage.data`.
        steps: The engine's answers.
        truth: Outlines whose union is the object, (x, y) in pixels; none where nobody has drawn them.
        view: Left, top, right, bottom of what is shown of the photo; all of it where that is None.
    """

    name: str
    photo: str
    steps: tuple[Step, ...]
    truth: tuple[Points, ...] = ()
    view: tuple[int, int, int, int] | None = None

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        photo = getattr(data, self.photo)()
        return np.ascontiguousarray(photo if photo.ndim == 3 else color.gray2rgb(photo))

    def object(self) -> NDArray[np.bool_] | None:
        """(H, W) bool: the object, where it is known."""
        pixels = self.pixels()
        if self.name == "cell":
            bright = measure.label(pixels[..., 0] > filters.threshold_otsu(pixels[..., 0]))
            x, y, _ = self.steps[0].clicks[0]
            return bright == bright[int(y), int(x)]
        drawn = np.zeros(pixels.shape[:2], np.uint8)
        for outline in self.truth:
            cv2.fillPoly(drawn, [np.array(outline, np.int32)], 1)
        return drawn.astype(bool) if self.truth else None


def on(x: float, y: float) -> tuple[float, float, bool]:
    """A positive click."""
    return x, y, True


def off(x: float, y: float) -> tuple[float, float, bool]:
    """A negative click."""
    return x, y, False


# fmt: off
SAUCER: Points = [
    (178, 72), (160, 79), (140, 91), (120, 107), (104, 127), (91, 150), (82, 175), (77, 203), (78, 225), (82, 250),
    (89, 272), (99, 294), (112, 315), (130, 335), (150, 352), (175, 368), (200, 378), (230, 386), (260, 390),
    (290, 391), (320, 388), (350, 382), (380, 370), (405, 355), (430, 334), (450, 310), (464, 285), (474, 258),
    (478, 230), (477, 205), (471, 180), (461, 157), (447, 136), (430, 118), (416, 107), (421, 85), (424, 76),
    (418, 69), (408, 67), (398, 71), (386, 54), (370, 40), (350, 29), (325, 21), (300, 18), (275, 18), (250, 22),
    (225, 31), (203, 45), (188, 60),
]
HELMET: Points = [
    (365, 350), (380, 346), (396, 343), (417, 345), (435, 350), (452, 359), (466, 370), (478, 384), (487, 400),
    (493, 418), (496, 435), (497, 450), (500, 455), (503, 457), (502, 463), (506, 468), (507, 480), (511, 487),
    (512, 512), (286, 512), (281, 503), (278, 490), (277, 478), (279, 460), (283, 443), (289, 424), (295, 408),
    (298, 400), (305, 390), (314, 380), (322, 371), (330, 363), (342, 356), (355, 351),
]
EYE: Points = [
    (134, 103), (136, 94), (142, 88), (152, 86), (168, 86), (180, 89), (192, 94), (200, 102), (206, 112), (208, 124),
    (206, 134), (201, 141), (193, 146), (182, 148), (170, 146), (158, 141), (148, 133), (140, 123), (135, 112),
]
ROCKET: Points = [
    (321, 127), (326, 130), (331, 139), (333, 148), (334, 160), (334, 172), (332, 178), (330, 182), (330, 240),
    (331, 300), (331, 345), (332, 406), (313, 406), (313, 345), (314, 300), (315, 182), (312, 178), (311, 172),
    (311, 150), (313, 141), (317, 132),
]
OPTIC_DISC: Points = [
    (222, 600), (240, 596), (262, 588), (285, 583), (295, 588), (302, 600), (308, 615), (310, 640), (309, 660),
    (305, 680), (299, 700), (291, 715), (280, 727), (268, 736), (250, 740), (232, 735), (217, 722), (207, 706),
    (200, 690), (197, 668), (200, 645), (207, 622),
]
TRIPOD: tuple[Points, ...] = (
    [(287, 216), (298, 216), (298, 488), (287, 488)],
    [(278, 316), (309, 316), (309, 330), (300, 345), (288, 345), (277, 330)],
    [(278, 330), (291, 330), (250, 470), (245, 512), (231, 512), (243, 430)],
    [(304, 330), (311, 330), (352, 404), (388, 475), (406, 512), (396, 512), (386, 490), (343, 405)],
)
BODY = (
    on(322, 250), on(322, 351), on(322, 363), off(309, 354), off(311, 183), off(312, 184), off(333, 186), off(312, 200),
)
ROUND = (on(172, 115), off(92, 207), off(270, 74), off(115, 90), on(146, 100))
LEGS = (on(293, 400), off(97, 310), off(51, 433), on(292, 329), off(139, 480), on(254, 425), on(239, 503), on(292, 221))
# fmt: on

ENTRIES = (
    Entry("saucer", "coffee", (Step((on(100, 230),)),), (SAUCER,)),
    Entry("cat", "chelsea", (Step((on(225, 200),)),)),
    Entry("astronaut", "astronaut", (Step((on(220, 300),)),)),
    Entry("optic_disc", "retina", (Step((on(235, 650),)),), (OPTIC_DISC,), (0, 350, 600, 950)),
    Entry(
        "cell",
        "cell",
        (Step((on(430, 375),)), Step((on(430, 375), off(494, 375), off(362, 375)))),
        view=(300, 250, 550, 500),
    ),
    Entry("cup", "coffee", (Step((on(293, 132),)), Step((on(293, 132), off(100, 230))))),
    Entry(
        "spoon",
        "coffee",
        (
            Step((on(370, 285),)),
            Step((on(370, 285), off(300, 120))),
            Step((on(370, 285), off(300, 120), off(450, 250)), shown=False),
        ),
    ),
    Entry(
        "helmet",
        "astronaut",
        (Step((on(390, 440),)), Step((on(390, 440), off(129, 370))), Step(box=(275, 342, 512, 512))),
        (HELMET,),
    ),
    Entry(
        "eye",
        "chelsea",
        (Step(ROUND[:1]), Step(ROUND, shown=False), Step(box=(132, 84, 210, 150))),
        (EYE,),
    ),
    Entry(
        "rocket",
        "rocket",
        (Step((on(322, 250),)), Step((on(322, 250), on(322, 390))), Step(BODY, shown=False)),
        (ROCKET,),
        (200, 90, 440, 427),
    ),
    Entry("tripod", "camera", (Step(LEGS[:1]), Step(LEGS)), TRIPOD),
    Entry("tower", "rocket", (Step((on(60, 200),)), Step((on(30, 200), off(60, 200)))), view=(0, 0, 300, 427)),
    Entry("vessel", "retina", (Step((on(575, 400),)), Step((on(575, 400), off(700, 500), off(500, 900))))),
    Entry("stone", "gravel", (Step((on(250, 250),)),), view=(170, 190, 330, 310)),
)


def answers(engine: Engine, entry: Entry) -> Iterator[tuple[Step, MaskResult, float | None]]:
    """Each step of an entry, the engine's answer, and its IoU where the object is known."""
    image, known = LoadedImage.from_array(entry.pixels()), entry.object()
    for step in entry.steps:
        box = None if step.box is None else Box(*step.box)
        result = engine.segment(image, [Click(*click) for click in step.clicks], box)
        iou = None if known is None else float((result.mask & known).sum() / (result.mask | known).sum())
        yield step, result, iou


def panel(entry: Entry, step: Step, mask: NDArray[np.bool_]) -> Image.Image:
    """The photo, or what is shown of it, with mask, clicks and box, `WIDTH` pixels wide."""
    photo = entry.pixels()
    left, top, right, bottom = entry.view or (0, 0, photo.shape[1], photo.shape[0])
    scale = WIDTH / (right - left)
    size = (WIDTH, round((bottom - top) * scale))
    part = np.asarray(Image.fromarray(photo[top:bottom, left:right]).resize(size, Image.Resampling.LANCZOS))
    cut = mask[top:bottom, left:right].astype(np.uint8)
    shown = cv2.resize(cut, size, interpolation=cv2.INTER_NEAREST).astype(bool)
    clicks = [Click((x - left) * scale, (y - top) * scale, positive) for x, y, positive in step.clicks]
    seen = [click for click in clicks if 0 <= click.x <= size[0] and 0 <= click.y <= size[1]]
    picture = Image.fromarray(overlay(part, shown, seen))
    if step.box:
        x1, y1, x2, y2 = step.box
        edges = ((x1 - left) * scale, (y1 - top) * scale, (x2 - left) * scale - 1, (y2 - top) * scale - 1)
        ImageDraw.Draw(picture).rectangle(edges, outline=(255, 220, 0), width=3)
    return picture


def encoded(panels: list[Image.Image]) -> bytes:
    """Panels side by side as WebP, as good as there is room for."""
    sheet = Image.new("RGB", (len(panels) * (WIDTH + GAP) - GAP, panels[0].height), "white")
    for number, picture in enumerate(panels):
        sheet.paste(picture, (number * (WIDTH + GAP), 0))
    for quality in range(85, 0, -5):
        out = io.BytesIO()
        sheet.save(out, "WEBP", quality=quality, method=6)
        if out.tell() <= MOST:
            return out.getvalue()
    raise ValueError(f"there is no room for it in {MOST} bytes")


def main(weights: str) -> None:
    """Draws all pictures and writes the numbers into the page."""
    engine = Engine.from_weights(weights, profile="exact")
    page, total = PAGE.read_text(), 0
    for entry in ENTRIES:
        told, panels = [], []
        for step, result, iou in answers(engine, entry):
            told.append(f"{step.words}: score {result.score:.2f}" + ("" if iou is None else f", IoU {iou:.2f}"))
            panels += [panel(entry, step, result.mask)] if step.shown else []
        content = encoded(panels)
        (FOLDER / f"gallery_{entry.name}.webp").write_bytes(content)
        total += len(content)
        print(f"{entry.name} ({len(content)} bytes): {'. '.join(told)}.")
        page = updated(page, entry.name, told)
    PAGE.write_text(page)
    print(f"{total} bytes")


def updated(page: str, name: str, told: list[str]) -> str:
    """The page with the scores and IoUs of one picture, whose words stay.

    Raises:
        ValueError: The page says more or less of it.
    """
    before, link, after = page.partition(f"(figures/gallery_{name}.webp)\n\n")
    text, blank, rest = after.partition("\n\n")
    if len(TOLD.findall(text)) != len(told):
        raise ValueError(f"{PAGE} says something else of {name} than: {'. '.join(told)}")
    lines = iter(told)
    return before + link + TOLD.sub(lambda _: next(lines) + ".", text) + blank + rest


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "starter")
