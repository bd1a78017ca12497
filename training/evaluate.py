"""Benchmarks click-based segmentation: `icmformer evaluate --dataset GrabCut --root DIR --out DIR`.

Simulates an annotator on every object and writes results.json, curve.png and, object by object while it runs,
objects.jsonl; run it again with the same --out to go on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from icmformer.errors import ConfigError
from icmformer.inference.profiles import PROFILES, RUNTIMES

from .command_line import add_dataset, add_processes, command_parser, exit_status, given
from .evaluation.protocol import trace
from .evaluation.report import print_table
from .evaluation.runner import evaluate
from .evaluation.settings import EvaluationSettings

__all__ = ["main", "trace"]


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("evaluate", __doc__)
    parser.add_argument("--weights", help="name or path of the weights (default: starter)")
    add_dataset(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--profile", choices=list(PROFILES), help="exact (default) or fast")
    parser.add_argument("--runtime", choices=RUNTIMES, default="auto", help="auto (default), torch or openvino")
    parser.add_argument(
        "--mode",
        default="auto",
        help="the network's input: native (the weights' own size), cvpr (448, 672 on DAVIS), fixedN or fixedN,M; "
        "auto (default) is cvpr for weights made for 448 and native for others",
    )
    parser.add_argument("--target-iou", type=float, default=0.9, metavar="IOU", help="stop at this IoU (0.9)")
    parser.add_argument(
        "--as-served",
        dest="order",
        choices=["ordered", "unordered"],
        help="send all clicks so far with every click, as Label Studio (ordered) or CVAT (unordered) does",
    )
    parser.add_argument(
        "--server",
        metavar="URL",
        help="evaluate a CVAT function, deployed or served by `icmformer serve cvat`, which gets only what CVAT sends; "
        "options about the network are then the function's own",
    )
    parser.add_argument(
        "--box",
        choices=[f"{guess}{centre}" for guess in ("none", "ellipse", "box") for centre in ("", "+centre")],
        help="start each object with its box, turned into a first guess this way; clicks then correct the mask",
    )
    parser.add_argument(
        "--click-spread",
        type=float,
        default=0.0,
        metavar="S",
        help="jittered clicks: how far from the deepest point of the error the annotator clicks; 0 (default) there, as "
        "published, 0.5 anywhere at least half as deep, 1 anywhere in the error",
    )
    parser.add_argument("--seed", type=int, help="seed of the jittered clicks (0)")
    parser.add_argument(
        "--refinement-pass",
        choices=["yes", "no"],
        help="whether a first click gets a coarse-to-fine refinement pass (default: as the weights' config says)",
    )
    parser.add_argument(
        "--close-up",
        metavar="CLICK,PIXELS,RATIO",
        help="from click CLICK on, zoom in to at least PIXELS and RATIO times the mask's sides; no: zoom as at earlier "
        "clicks (default: as the weights' config says)",
    )
    add_processes(parser)
    parser.add_argument("--overlays", action="store_true", help="write a picture of every click of every object")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    args = _parser().parse_args(argv)

    def work() -> None:
        results = evaluate(_settings(args), args.out, args.device.split(","), args.jobs, args.overlays)
        print_table(results, args.out)

    return exit_status(work, f"stopped; finished objects are kept, run the same command to go on: {args.out}", args.out)


def _settings(args: argparse.Namespace) -> EvaluationSettings:
    """The settings that the options name.

    Raises:
        ConfigError: Options that do not go together.
    """
    if args.seed is not None and not args.click_spread:
        raise ConfigError("--seed goes with --click-spread")
    own = args.order, args.box, args.weights, args.profile, args.refinement_pass, args.close_up
    if args.server and (args.mode != "auto" or any(own)):
        raise ConfigError(
            "--server has settings of its own; leave out --weights, --profile, --as-served, --box, --mode, "
            "--refinement-pass and --close-up"
        )
    settings = given(args, EvaluationSettings)
    if args.all_clicks:
        settings["target_iou"] = None
    if args.refinement_pass:
        settings["refinement_pass"] = args.refinement_pass == "yes"
    return EvaluationSettings(**settings)


if __name__ == "__main__":
    sys.exit(main())
