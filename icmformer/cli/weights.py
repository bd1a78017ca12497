"""`icmformer weights`: look at, convert, check and fetch weights."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from icmformer import weights
from icmformer.errors import WeightsError
from icmformer.models import network_config
from icmformer.models.config import variant_name
from icmformer.weights.quantise import STORED


def register(commands: Any) -> None:
    """Adds the command and its own commands."""
    parser = commands.add_parser(
        "weights",
        help="inspect, convert, verify and download weights",
        description="Inspects, converts, verifies and downloads weights.",
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    info = actions.add_parser(
        "info",
        help="show what weights hold, or list the weights on the search path",
        description="Shows network, origin and serving defaults of weights; without a name, lists the search path.",
    )
    info.add_argument("weights", nargs="?", help="name or path")
    info.add_argument("--json", action="store_true", help="print as JSON")
    info.set_defaults(run=_info)

    convert = actions.add_parser(
        "convert",
        help="convert a published .pth to the native form",
        description="Converts weights to the native form: model.safetensors, config.json, SHA256SUMS. Runs no code "
        "that a .pth holds.",
    )
    convert.add_argument("weights", help="published .pth, .safetensors or native folder")
    convert.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    convert.add_argument(
        "--store",
        choices=STORED,
        default="fp32",
        help="precision on disk: fp32 (default), fp16 (half the size) or int8 (a quarter); loaded, all are fp32",
    )
    convert.add_argument("--name", help="name of the converted weights (the output folder's)")
    convert.add_argument("--force", action="store_true", help="replace weights already in the folder")
    convert.set_defaults(run=_convert)

    verify = actions.add_parser(
        "verify",
        help="check checksums, shapes and values",
        description="Checks checksums, shapes and values of weights. Exit status 1 if any are wrong.",
    )
    verify.add_argument("weights", nargs="+", help="names or paths")
    verify.set_defaults(run=_verify)

    fetch = actions.add_parser(
        "fetch",
        help="download weights into the cache folder",
        description="Downloads weights into the cache folder, from where they are found by their name.",
    )
    fetch.add_argument("url", help="https address of a .pth or .safetensors file")
    fetch.add_argument("--sha256", help="expected checksum; a file with another one is refused")
    fetch.set_defaults(run=_fetch)


def _info(args: argparse.Namespace) -> int:
    if args.weights is None:
        names = weights.available()
        if args.json:
            print(json.dumps({name: str(path) for name, path in names.items()}, indent=2))
            return 0
        for name, path in names.items():
            print(f"{name:<26} {path}")
        print("searched, in this order:", *(f"  {folder}" for folder in weights.search_path()), sep="\n")
        return 0
    found = weights.load(args.weights)
    variant = variant_name(network_config(found.config))
    facts = {
        "name": found.name,
        "path": str(found.path) if found.path else None,
        "sha256": found.sha256,
        "variant": variant,
        "parameters": sum(t.numel() for t in found.state_dict.values() if t.is_floating_point()),
        "network": found.config,
        **found.serving.as_mapping(),
        "about": dict(found.about),
    }
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    print(f"name        {found.name}\npath        {found.path}\nsha256      {found.sha256}")
    print(f"variant     {variant or 'not a registered one'}\nparameters  {facts['parameters']:,}")
    serving = found.serving
    closer = ", then refines what a first click found" if serving.refinement_pass else ""
    print(f"zooms to    {serving.min_crop_size} pixels at least{closer}")
    print(f"clicks      at least {serving.click_margin} pixels from the edges of the network's input")
    print(f"scores      log-odds times {serving.score_sharpness:g}")
    for title, mapping in (("network", found.config), ("about", found.about)):
        for key, value in mapping.items():
            print(f"{title:<11} {key}: {value}")
    return 0


def _convert(args: argparse.Namespace) -> int:
    if (args.output / weights.MODEL_FILE).exists() and not args.force:
        raise WeightsError(f"{args.output} already holds weights; --force replaces them")
    found = weights.load(args.weights)
    about = {
        **found.about,
        "converted_from": found.path.name if found.path else found.name,
        "source_sha256": found.sha256,
    }
    name = args.name or args.output.name
    folder = weights.save(
        args.output,
        found.config,
        found.state_dict,
        name,
        about,
        args.store,
        found.serving,
    )
    size = (folder / weights.MODEL_FILE).stat().st_size
    print(f"{folder}: {size / 1e6:.1f} MB, {variant_name(network_config(found.config)) or found.config['family']}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    wrong = 0
    for name in args.weights:
        try:
            found = weights.load(name)
        except WeightsError as error:
            wrong += 1
            print(f"{name}: WRONG: {error}", file=sys.stderr)
        else:
            print(f"{name}: good, sha256 {found.sha256}")
    return 1 if wrong else 0


def _fetch(args: argparse.Namespace) -> int:
    with tqdm(unit="B", unit_scale=True, desc=args.url.rsplit("/", 1)[-1]) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        path = weights.fetch(args.url, args.sha256, progress)
    found = weights.load(path)
    print(f"{path}\nuse it as --weights {found.name}")
    return 0
