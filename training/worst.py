"""The objects that weights are worst at, on one picture: `python -m training.worst OUT --picture FILE`.

Takes from OUT, which `training.evaluate` wrote, the objects that need the most clicks (those that never get there
first, by their IoU), makes their masks after so many clicks again and draws what is right (grey), missed (red) and too
much (blue), with the clicks in their order, each as close as it fits. --photos draws over the photos, where what
is right stays as it is; they may not be yours to pass on.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from icmformer import Click, Engine
from icmformer.errors import ConfigError
from icmformer.images.masks import write_image
from icmformer.inference.roi import bounding_box, expand, whole
from icmformer.models import network_config
from icmformer.types import BoolMask, RGBImage
from icmformer.weights import load
from training.breakdown import TARGET, played_objects
from training.command import exit_status, new_file
from training.evaluation.benchmarks import EvalObject, Truth
from training.evaluation.protocol import mask_digest
from training.simulated_annotator import SimulatedAnnotator

_RIGHT, _MISSED, _EXTRA = (200, 200, 200), (225, 50, 45), (40, 95, 230)
_POSITIVE, _NEGATIVE = (0, 130, 50), (0, 0, 0)
_TILE = 200
_COLUMNS = 6
_MARGIN = 1.25
_LEAST = 64


def worst(
    played: Sequence[tuple[EvalObject, Mapping[str, Any]]], count: int
) -> list[tuple[EvalObject, Mapping[str, Any]]]:
    """The `count` objects that need the most clicks to 90% IoU; those never there come first, by their last IoU."""

    def ease(pair: tuple[EvalObject, Mapping[str, Any]]) -> tuple[int, float]:
        ious = pair[1]["ious"]
        reached = np.flatnonzero(np.asarray(ious, np.float32) >= np.float32(TARGET))
        return (-(int(reached[0]) + 1), ious[-1]) if len(reached) else (-(10**6), ious[-1])

    return sorted(played, key=ease)[:count]


def error_map(photo: RGBImage | None, truth: Truth, mask: BoolMask, clicks: Sequence[Click]) -> RGBImage:
    """What is right and wrong about a mask.

    Args:
        photo: (H, W, 3), to draw over; None draws on white.
        truth: (H, W): 1 object, 0 background, -1 ignored.
        mask: (H, W).
        clicks: In the order they were made; each is numbered.

    Returns:
        (h, w, 3) RGB uint8, the longer side `_TILE` pixels.
    """
    height, width = truth.shape
    scale = _TILE / max(height, width)
    side = max(1, round(width * scale)), max(1, round(height * scale))
    base = np.full((height, width, 3), 255, np.uint8) if photo is None else photo
    tile = np.asarray(cv2.resize(base, side, interpolation=cv2.INTER_AREA), np.uint8).copy()
    inside = truth == 1
    wrong = [(inside & mask, _RIGHT), (inside & ~mask, _MISSED), (~inside & mask & (truth == 0), _EXTRA)]
    for region, colour in wrong:
        small = cv2.resize(region.astype(np.uint8), side, interpolation=cv2.INTER_NEAREST) > 0
        if photo is None:
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


def close_up(truth: Truth, mask: BoolMask, clicks: Sequence[Click]) -> tuple[slice, slice]:
    """The rows and columns that hold object, mask and clicks, with a margin; no fewer than 64 pixels."""
    height, width = truth.shape
    seen = (truth == 1) | mask
    for click in clicks:
        seen[click.pixel(height, width)] = True
    box = bounding_box(seen) or whole(height, width)
    return expand(box, (height, width), _MARGIN, _LEAST).slices


def sheet(tiles: Sequence[tuple[RGBImage, str]]) -> RGBImage:
    """Pictures with a line below each, six in a row."""
    rows = []
    for start in range(0, len(tiles), _COLUMNS):
        cells = [_cell(*tile) for tile in tiles[start : start + _COLUMNS]]
        blank = np.full_like(cells[0], 255)
        rows.append(np.hstack([*cells, *[blank] * (_COLUMNS - len(cells))]))
    return np.vstack(rows)


def _cell(tile: RGBImage, line: str) -> RGBImage:
    cell = np.full((_TILE + 26, _TILE + 10, 3), 255, np.uint8)
    top, left = (_TILE - tile.shape[0]) // 2 + 3, (_TILE - tile.shape[1]) // 2 + 5
    cell[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    cv2.rectangle(cell, (left - 1, top - 1), (left + tile.shape[1], top + tile.shape[0]), (190, 190, 190), 1)
    _text(cell, line, (6, _TILE + 18), 0.38, (0, 0, 0))
    return cell


def _text(picture: RGBImage, line: str, at: tuple[int, int], size: float, colour: tuple[int, int, int]) -> None:
    cv2.putText(picture, line, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.worst", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder that training.evaluate wrote (its --out)")
    parser.add_argument(
        "--picture", type=new_file(".png", ".jpg", ".webp"), required=True, help="file to write: .png, .jpg or .webp"
    )
    parser.add_argument("--weights", default="starter", help="the weights that were evaluated (starter)")
    parser.add_argument("--count", type=int, default=30, metavar="N", help="objects (30)")
    parser.add_argument("--clicks", type=int, default=5, metavar="N", help="clicks to show the masks after (5)")
    parser.add_argument("--photos", action="store_true", help="draw over the photos")
    args = parser.parse_args(argv)
    return exit_status(lambda: _draw(args), "stopped; nothing was written")


def _draw(args: argparse.Namespace) -> int:
    if args.count < 1 or args.clicks < 1:
        raise ConfigError("--count and --clicks start at 1")
    run, played = played_objects(args.out)
    if run.get("server") or run["box"]:
        raise ConfigError(f"{args.out} was played with a server or boxes; its masks cannot be made again here")
    weights = load(args.weights)
    if weights.identity != run["identity"]:
        raise ConfigError(f"{args.out} was played with other weights than {args.weights}; name those with --weights")
    if run["size"] != [network_config(weights.config).img_size] * 2:
        raise ConfigError(f"{args.out} was played at another input size than the weights' own")
    looks = run.get("second_look", weights.serving.refinement_pass)
    weights = dataclasses.replace(weights, serving=dataclasses.replace(weights.serving, refinement_pass=looks))
    engine = Engine(weights, "cpu", run["profile"], runtime=run.get("runtime", "auto"))
    tiles, others = [], 0
    for item, row in tqdm(worst(played, args.count), unit="object"):
        image, truth = item.load()
        clicks = [Click(c + 0.5, r + 0.5, bool(p)) for r, c, p in row["clicks"][: args.clicks]]
        mask = engine.segment(image, clicks, ordered=run["served"] != "unordered").mask
        rows, columns = close_up(truth, mask, clicks)
        shifted = [Click(c.x - columns.start, c.y - rows.start, c.positive) for c in clicks]
        photo = image.pixels[rows, columns] if args.photos else None
        picture = error_map(photo, truth[rows, columns], mask[rows, columns], shifted)
        others += mask_digest(mask) != row["masks"][len(clicks) - 1]
        tiles.append((picture, f"{item.name[:16]} {SimulatedAnnotator(truth).iou(mask):.2f} > {row['ious'][-1]:.2f}"))
    write_image(args.picture, sheet(tiles))
    if others:
        print(f"{others} masks differ from those played, on another machine or number of threads", file=sys.stderr)
    print(f"{len(tiles)} objects drawn to {args.picture}: IoU after {args.clicks} clicks > after the last")
    return 0


if __name__ == "__main__":
    sys.exit(main())
