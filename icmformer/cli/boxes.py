"""`icmformer boxes`: masks for the boxes of a COCO file, a Label Studio project or a CVAT task."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from icmformer.boxes.journal import Journal
from icmformer.boxes.opening import Module
from icmformer.boxes.work import DEFAULT_THRESHOLD, UnavailableError, Work
from icmformer.errors import ConfigError
from icmformer.inference.engine import Engine
from icmformer.inference.profiles import PROFILES, find_profile
from icmformer.serving.version_tags import model_name
from icmformer.settings import Settings
from icmformer.weights import load

MODULES = {
    "coco": "icmformer.boxes.coco",
    "label-studio": "icmformer.applications.ls_backend.boxes",
    "cvat": "icmformer.applications.serverless.boxes",
}
"""Where boxes come from. By name, as this package depends on neither tool's side and they may not load."""


def register(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "boxes",
        help="make masks of boxes that are there already, in bulk",
        description="Segments the object in each box that there is, and writes its mask with a score beside what is "
        "there, which stays as it is. Run the same command again to go on after a stop.",
    )
    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL")
    coco = tools.add_parser(
        "coco",
        help="a COCO file of boxes",
        description="Writes a copy of a COCO file in which the annotations that have a bbox and no segmentation have "
        "one, in compressed run lengths, with its area, score and model_version. All else is kept: other annotations "
        "and fields, crowds, and boxes whose mask has too low a score. Needs pycocotools (the [coco] extra).",
    )
    coco.add_argument("file", type=Path, metavar="FILE", help="COCO JSON with images, annotations and categories")
    coco.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="COCO file to write")
    coco.add_argument("--images", type=Path, metavar="DIR", help="the images' folder (FILE's)")
    coco.add_argument(
        "--orientation",
        choices=["upright", "stored"],
        help="whether boxes on images with an EXIF orientation are on the image as shown or as stored, where the sizes "
        "in FILE do not tell (upright)",
    )
    studio = tools.add_parser(
        "label-studio",
        help="the rectangles of a Label Studio project",
        description="Adds predictions with a mask for each rectangle in the annotations of a project's tasks, in the "
        "control for masks that the labelling config has (BrushLabels, PolygonLabels, Brush or Polygon), with the "
        "rectangle's label, a score and the weights' version. Annotations and other predictions stay as they are.",
        epilog="The token comes from LABEL_STUDIO_API_KEY.",
    )
    studio.add_argument("--url", help="Label Studio's address (LABEL_STUDIO_URL)")
    studio.add_argument("--project", type=int, required=True, metavar="N", help="the project's number")
    studio.add_argument(
        "--predictions",
        action="store_true",
        help="take the newest prediction's rectangles of tasks without any in annotations",
    )
    cvat = tools.add_parser(
        "cvat",
        help="the rectangles of a CVAT task or job",
        description="Adds a mask for each rectangle of a task's jobs, with its label and a score, marked as made "
        "automatically. All else stays as it is. Needs cvat-sdk (the [cvat-agent] extra).",
        epilog="The token comes from CVAT_ACCESS_TOKEN.",
    )
    cvat.add_argument("--url", help="CVAT's address (CVAT_HOST)")
    what = cvat.add_mutually_exclusive_group(required=True)
    what.add_argument("--task", type=int, metavar="N", help="the task's number: all of its annotation jobs")
    what.add_argument("--job", type=int, metavar="N", help="the job's number")
    for name, each in tools.choices.items():
        _add_common(each, name)
        each.set_defaults(run=_run)


def _add_common(parser: argparse.ArgumentParser, name: str) -> None:
    """The options that all tools have."""
    parser.add_argument(
        "--threshold",
        type=_share,
        default=DEFAULT_THRESHOLD,
        metavar="SCORE",
        help=f"least score of a mask that is written, 0 to 1 ({DEFAULT_THRESHOLD:g})",
    )
    parser.add_argument("--weights", help="name or path of the weights (ICMFORMER_WEIGHTS, else starter)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (ICMFORMER_DEVICE, else auto)")
    parser.add_argument("--profile", choices=list(PROFILES), help="exact or fast (ICMFORMER_PROFILE, else fast)")
    beside = "OUT.journal" if name == "coco" else "one in the cache folder for each set of options"
    parser.add_argument("--journal", type=Path, metavar="FILE", help=f"where to note what is done ({beside})")
    what = {"coco": "images", "label-studio": "tasks", "cvat": "frames"}[name]
    parser.add_argument("--limit", type=_positive, metavar="N", help=f"only the next N {what} with boxes, to try it")


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def _run(args: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    module = _module(args.tool)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    weights = load(args.weights or settings.weights, settings)
    profile = find_profile(args.profile or settings.profile)
    version = model_name(weights.name, weights.sha256, profile.name)
    opened = module.open_boxes(args, version)
    run = {"tool": args.tool, **opened.run, "model version": version, "threshold": args.threshold}
    make: Callable[[], Engine] = partial(Engine, weights, args.device, profile, settings=settings)
    with Journal(args.journal or opened.journal, run) as journal:
        try:
            tally = Work(opened.source, journal, make, args.threshold, args.limit, _tell, opened.progress).run()
        except KeyboardInterrupt:
            print(f"stopped; run the same command to go on ({journal.path} has what is done)", file=sys.stderr)
            return 130
        except UnavailableError as error:
            raise UnavailableError(f"{error}; run the same command to go on") from error
    print(f"{tally}\n{opened.place}")
    if tally.again:
        print("the same command tries again what failed, but for boxes that cannot be used")
    return 1 if tally.failed else 0


def _tell(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


def _module(tool: str) -> Module:
    name = MODULES[tool]
    try:
        module: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"`icmformer boxes {tool}` needs {error.name}: {_ADVICE[tool]}") from error
    return module  # type: ignore[no-any-return]


_ADVICE = {
    "coco": "pip install 'icmformer[coco]' (in a checkout: '.[coco]')",
    "label-studio": "pip install 'icmformer[label-studio]' (in a checkout: '.[label-studio]')",
    "cvat": "pip install 'icmformer[cvat-agent]' (in a checkout: '.[cvat-agent]')",
}
