"""Hard cases: the objects that weights are worst at, on one picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from icmformer import Click, Engine
from icmformer.errors import ConfigError
from icmformer.images.masks import write_image
from icmformer.inference.roi import PixelClick, bounding_box, expand, whole
from icmformer.models import network_config
from icmformer.types import BoolMask, RGBImage
from icmformer.weights import load

from .benchmarks import EvalObject, Truth
from .noc import TARGET_IOU, clicks_to
from .object_results import Header, ObjectResult, evaluated_objects
from .protocol import ScriptedAnnotator, as_served, pixel_middles, simulate
from .settings import overridden

_RIGHT, _MISSED, _EXTRA = (200, 200, 200), (225, 50, 45), (40, 95, 230)
_POSITIVE, _NEGATIVE = (0, 130, 50), (0, 0, 0)
_TILE = 200
_COLUMNS = 6
_MARGIN = 1.25
_LEAST = 64


Evaluated = tuple[EvalObject, ObjectResult]


def hardest(evaluated: Sequence[Evaluated], count: int) -> list[Evaluated]:
    """The `count` objects that need the most clicks to 90% IoU; those never there come first, by their last IoU."""

    def ease(pair: Evaluated) -> tuple[float, float]:
        ious = pair[1]["ious"]
        return -(clicks_to(ious, TARGET_IOU) or np.inf), ious[-1]

    return sorted(evaluated, key=ease)[:count]


def draw_hard_cases(
    folder: Path, picture: Path, weights: str = "starter", count: int = 30, clicks: int = 5, over_images: bool = False
) -> tuple[int, int]:
    """Draws what is right and wrong about the masks of a finished evaluation's hardest objects after some clicks.

    Args:
        folder: The evaluation's.
        picture: The file to write: .png, .jpg or .webp.
        weights: Those that were evaluated.
        count: Of objects.
        clicks: How many.
        over_images: Draw over the images rather than on white.

    Returns:
        How many were drawn, and of them those whose mask is not the one that was evaluated: on another machine, or with
        another number of threads, the last bits of a probability may be others.

    Raises:
        ConfigError: See `evaluated_objects`; or other weights or settings than this can do again.
    """
    if count < 1 or clicks < 1:
        raise ConfigError("--count and --clicks start at 1")
    header, evaluated = evaluated_objects(folder, TARGET_IOU)
    engine = _engine(folder, header, weights)
    threshold = engine.weights.serving.threshold
    tiles, others = [], 0
    for item, result in tqdm(hardest(evaluated, count), unit="object"):
        image, truth = item.load()
        made = [PixelClick(*click) for click in result["clicks"][:clicks]]
        predict = as_served(engine, image, header["served"] or "ordered")
        session = simulate(predict, truth, threshold, None, annotator=ScriptedAnnotator(truth, made))
        points = pixel_middles(made)
        rows, columns = framed(truth, session.mask, points)
        shifted = [Click(c.x - columns.start, c.y - rows.start, c.positive) for c in points]
        base = image.pixels[rows, columns] if over_images else None
        tile = error_map(base, truth[rows, columns], session.mask[rows, columns], shifted)
        tiles.append((tile, f"{item.name[:16]} {session.ious[-1]:.2f} > {result['ious'][-1]:.2f}"))
        others += session.masks[-1] != result["masks"][len(made) - 1]
    write_image(picture, sheet(tiles))
    return len(tiles), others


def _engine(folder: Path, header: Header, weights: str) -> Engine:
    """The engine whose masks an evaluation was of."""
    if header.get("server") or header["box"]:
        raise ConfigError(f"{folder} is of a server or of boxes; its masks cannot be made again here")
    loaded = load(weights)
    if loaded.identity != header["identity"]:
        raise ConfigError(f"{folder} is of other weights than {weights}; name those with --weights")
    if header["size"] != [network_config(loaded.config).img_size] * 2:
        raise ConfigError(f"{folder} is of another input size than the weights' own")
    serving = overridden(loaded.serving, header.get("refinement_pass"), header.get("close_up"))
    loaded = dataclasses.replace(loaded, serving=serving)
    return Engine(loaded, "cpu", header["profile"], runtime=header.get("runtime", "auto"))


def error_map(image: RGBImage | None, truth: Truth, mask: BoolMask, clicks: Sequence[Click]) -> RGBImage:
    """What is right and wrong about a mask.

    Args:
        image: (H, W, 3), to draw over; None draws on white.
        truth: (H, W): 1 object, 0 background, -1 ignored.
        mask: (H, W).
        clicks: In the order they were made; each is numbered.

    Returns:
        (h, w, 3) RGB uint8, the longer side `_TILE` pixels.
    """
    height, width = truth.shape
    scale = _TILE / max(height, width)
    side = max(1, round(width * scale)), max(1, round(height * scale))
    base = np.full((height, width, 3), 255, np.uint8) if image is None else image
    tile = np.asarray(cv2.resize(base, side, interpolation=cv2.INTER_AREA), np.uint8).copy()
    inside = truth == 1
    wrong = [(inside & mask, _RIGHT), (inside & ~mask, _MISSED), (~inside & mask & (truth == 0), _EXTRA)]
    for region, colour in wrong:
        small = cv2.resize(region.astype(np.uint8), side, interpolation=cv2.INTER_NEAREST) > 0
        if image is None:
            tile[small] = colour
        elif colour != _RIGHT:
            tile[small] = (0.45 * tile[small] + 0.55 * np.array(colour)).astype(np.uint8)
    for number, click in enumerate(clicks, 1):
        row, column = click.pixel(height, width)
        at = round((column + 0.5) * scale), round((row + 0.5) * scale)
        cv2.circle(tile, at, 7, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(tile, at, 6, _POSITIVE if click.positive else _NEGATIVE, -1, cv2.LINE_AA)
        _text(tile, str(number), (at[0] - 3, at[1] + 3), 0.3, (255, 255, 255))
    return tile


def framed(truth: Truth, mask: BoolMask, clicks: Sequence[Click]) -> tuple[slice, slice]:
    """The rows and columns that hold object, mask and clicks, with a margin; no fewer than 64 pixels."""
    height, width = truth.shape
    seen = (truth == 1) | mask
    for click in clicks:
        seen[click.pixel(height, width)] = True
    box = bounding_box(seen) or whole(height, width)
    return expand(box, (height, width), _MARGIN, _LEAST).slices


def sheet(tiles: Sequence[tuple[RGBImage, str]]) -> RGBImage:
    """Pictures with a line below each, six in a row."""
    lines = []
    for start in range(0, len(tiles), _COLUMNS):
        cells = [_cell(*tile) for tile in tiles[start : start + _COLUMNS]]
        blank = np.full_like(cells[0], 255)
        lines.append(np.hstack([*cells, *[blank] * (_COLUMNS - len(cells))]))
    return np.vstack(lines)


def _cell(tile: RGBImage, line: str) -> RGBImage:
    cell = np.full((_TILE + 26, _TILE + 10, 3), 255, np.uint8)
    top, left = (_TILE - tile.shape[0]) // 2 + 3, (_TILE - tile.shape[1]) // 2 + 5
    cell[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    cv2.rectangle(cell, (left - 1, top - 1), (left + tile.shape[1], top + tile.shape[0]), (190, 190, 190), 1)
    _text(cell, line, (6, _TILE + 18), 0.38, (0, 0, 0))
    return cell


def _text(picture: RGBImage, line: str, at: tuple[int, int], size: float, colour: tuple[int, int, int]) -> None:
    cv2.putText(picture, line, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
