"""Weights that can be computed in int8: `python -m training.quantise --weights W --root train-000.zip -o FOLDER`.

Makes some clicks on each object and measures between which values the inputs of the network's products lie. The weights
are written again, stored as they were, with these ranges in config.json. Where a processor has VNNI and no bf16,
servers then compute in int8; `ICMFORMER_PRECISION` chooses otherwise. Measure afterwards what it costs:
`ICMFORMER_PRECISION=int8 icmformer evaluate ...`. Objects that the network was trained on will do, as nothing
is learnt from them.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from icmformer import Engine
from icmformer.errors import WeightsError
from icmformer.settings import Settings
from icmformer.weights import MODEL_FILE, load, save
from icmformer.weights.quantise import stored_form

from .command_line import add_measured_objects, command_parser, exit_status, positive
from .evaluation.activation_ranges import measure_ranges
from .evaluation.benchmarks import load_benchmark


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = command_parser("quantise", __doc__)
    add_measured_objects(parser, 100)
    parser.add_argument("--clicks", type=positive, default=5, help="clicks on each (5)")
    parser.add_argument(
        "--permissive", action="store_true", help="only on photos whose shard says that their licence is permissive"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--name", help="the weights' name (that of the given ones)")
    args = parser.parse_args(argv)
    return exit_status(lambda: _quantise(args), "stopped; nothing is written", args.output)


def _quantise(args: argparse.Namespace) -> None:
    if (args.output / MODEL_FILE).exists():
        raise WeightsError(f"{args.output} already holds weights; name another folder")
    settings = replace(Settings.from_environment(), precision="fp32")  # what is measured; int8 would want ranges
    weights = load(args.weights, settings)
    engine = Engine(weights, "cpu", args.profile, settings=settings)
    objects = load_benchmark(args.dataset, args.root, args.limit, args.permissive)
    ranges = measure_ranges(engine, objects, args.clicks)
    name, stored = args.name or weights.name, stored_form(weights.path)
    save(args.output, weights.config, weights.state_dict, name, weights.about, stored, weights.serving, ranges)
    print(f"{args.output}: {len(ranges.encode)} products of the encoder, {len(ranges.decode)} of the decoder")


if __name__ == "__main__":
    sys.exit(main())
