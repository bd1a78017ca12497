"""`icmformer segment`: one image, one prompt, one mask."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from icmformer.cli.options import add_network_options
from icmformer.errors import ConfigError, PromptError
from icmformer.geometry import CleanUp
from icmformer.images.masks import check_mask_path, overlay, read_mask, write_image, write_mask
from icmformer.images.reading import LoadedImage, read_image
from icmformer.inference.engine import Engine
from icmformer.inference.profiles import RUNTIMES
from icmformer.serving.client import ServedImage, asker
from icmformer.serving.description import description
from icmformer.settings import Settings
from icmformer.types import Box, Click


class _AppendClick(argparse.Action):
    """Collects clicks of both kinds in the order given."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        x, y = values
        try:
            namespace.clicks = [*namespace.clicks, Click(x, y, option_string != "--negative")]
        except PromptError as error:
            parser.error(f"{option_string}: {error}")


_EMPTY = "the mask is empty: add a positive click or a box"


def register(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "segment",
        help="segment one object of an image",
        description="Segments one object of an image, given clicks, a box or a mask to correct. Coordinates are pixels "
        "from the top left corner, x to the right, y down.",
        epilog="example: icmformer segment photo.jpg --click 320,200 --negative 400,260 -o mask.png --overlay look.jpg",
    )
    parser.add_argument("image", type=Path, help="image file")
    clicks: dict[str, Any] = {"metavar": "X,Y", "type": _pair, "action": _AppendClick, "dest": "clicks", "default": []}
    parser.add_argument("--click", help="a positive click: on the object; may be repeated, the order counts", **clicks)
    parser.add_argument("--negative", help="a negative click: not on the object; may be repeated", **clicks)
    parser.add_argument("--box", metavar="X1,Y1,X2,Y2", type=_four, help="a box around the object")
    parser.add_argument("--mask", type=Path, metavar="PREVIOUS.png", help="a mask to correct, as written by -o")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="mask to write: .png, .tif or .bmp, 255 on the object"
    )
    parser.add_argument("--overlay", type=Path, help="also write the image with mask and clicks drawn on it")
    parser.add_argument(
        "--server",
        metavar="URL",
        help="have the CVAT function at this address segment the image, with its own weights and settings",
    )
    add_network_options(parser)
    parser.add_argument(
        "--runtime",
        choices=list(RUNTIMES),
        help="auto: OpenVINO on a CPU where it is installed, else torch (ICMFORMER_RUNTIME, else auto)",
    )
    parser.add_argument(
        "--unordered",
        action="store_true",
        help="the order between positive and negative clicks is not known, as in CVAT's requests: each kind is "
        "replayed in its own order, and of the next positive and the next negative click, the one that contradicts the "
        "current mask more is replayed first",
    )
    parser.add_argument(
        "--keep-clicked", action="store_true", help="keep only the connected parts with a positive click on them"
    )
    parser.add_argument(
        "--fill-holes", type=int, default=0, metavar="PIXELS", help="fill holes of at most so many pixels"
    )
    parser.add_argument(
        "--min-area", type=int, default=0, metavar="PIXELS", help="drop connected parts of fewer pixels"
    )
    parser.add_argument("--max-points", type=int, metavar="N", help="most points of all polygons in --json together")
    parser.add_argument(
        "--allow-truncated", action="store_true", help="open a damaged image file as far as it can be decoded"
    )
    parser.add_argument("--json", action="store_true", help="print score, area, timings and polygons as JSON")
    parser.set_defaults(run=_run)


def _numbers(text: str, count: int) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise argparse.ArgumentTypeError(f"needs {count} numbers separated by commas, got {text!r}")
    return values


def _pair(text: str) -> tuple[float, ...]:
    return _numbers(text, 2)


def _four(text: str) -> tuple[float, ...]:
    return _numbers(text, 4)


def _run(args: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    check_mask_path(args.output)
    clean_up = CleanUp(args.keep_clicked, args.fill_holes, args.min_area)
    box = Box(*args.box) if args.box else None
    image = read_image(args.image, settings.max_pixels, args.allow_truncated)
    if args.server:
        return _ask_server(args, image, box)
    previous = read_mask(args.mask, settings.max_pixels) if args.mask else None
    weights = args.weights or settings.weights
    engine = Engine.from_weights(weights, args.device, args.profile, runtime=args.runtime, settings=settings)
    result = engine.segment(image, args.clicks, box, previous, ordered=not args.unordered, clean_up=clean_up)
    write_mask(args.output, result.mask)
    if args.overlay:
        write_image(args.overlay, overlay(image.pixels, result.mask, args.clicks))
    if args.json:
        print(json.dumps(description(result, args.max_points)))
    else:
        area, share = result.runs.area, result.runs.share
        print(
            f"{args.output}: {area:,} pixels ({share:.1%}), score {result.score:.2f}, {result.timings['total']:.0f} ms"
        )
        if not area:
            print(_EMPTY)
    return 0


def _ask_server(args: argparse.Namespace, image: LoadedImage, box: Box | None) -> int:
    """Has a CVAT function segment the image."""
    unknown = ("mask", "weights", "device", "profile", "runtime", "unordered", "keep_clicked", "fill_holes", "min_area")
    for name in (*unknown, "json"):
        if getattr(args, name):
            raise ConfigError(f"--{name.replace('_', '-')} cannot be combined with --server: CVAT has no such option")
    if not args.clicks and box is None:
        raise PromptError("the prompt is empty: give at least one click, or a box")
    mask = ServedImage(image, asker(args.server)).segment(args.clicks, box)
    write_mask(args.output, mask)
    if args.overlay:
        write_image(args.overlay, overlay(image.pixels, mask, args.clicks))
    print(f"{args.output}: {int(mask.sum()):,} pixels ({mask.mean():.1%}), from {args.server}")
    if not mask.any():
        print(_EMPTY)
    return 0
