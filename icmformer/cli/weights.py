"""`icmformer weights`: look at, convert, check, list and fetch weights, and their versions."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from icmformer import weights
from icmformer.cli import versions
from icmformer.errors import WeightsError
from icmformer.models import network_config
from icmformer.models.config import variant_name
from icmformer.weights import zoo
from icmformer.weights.quantise import STORED
from icmformer.weights.store import file_sha256


def register(commands: Any) -> None:
    """Adds the command and its own commands."""
    parser = commands.add_parser(
        "weights",
        help="inspect, convert, verify and download weights, list known public ones, promote versions and roll back",
        description="Inspects, converts, verifies and downloads weights, lists known public ones, and says which "
        "version of a store of weights servers use.",
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

    zoo_list = actions.add_parser(
        "zoo",
        help="list known public weights",
        description="Lists known public weights: address, size, checksum, licence, use and published figures. Nothing "
        "is downloaded.",
    )
    zoo_list.add_argument("--json", action="store_true", help="print as JSON")
    zoo_list.set_defaults(run=_zoo)

    fetch = actions.add_parser(
        "fetch",
        help="download weights into the cache folder",
        description="Downloads weights into the cache folder, from where they are found by their name. A file of the "
        "zoo is kept only if it has the size and the checksum that are known of it.",
    )
    fetch.add_argument(
        "source",
        metavar="NAME|URL",
        help="name in the zoo, or https address of a .pth, .safetensors or .npz file",
    )
    fetch.add_argument("--sha256", help="expected checksum; a file with another one is refused")
    fetch.set_defaults(run=_fetch)
    versions.register(actions)


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
    print(f"zooms to    {serving.zoom}")
    if serving.refinement_pass:
        print("            and runs once more after a first click, on the ROI of what that found (refinement pass)")
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
        found.int8,
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


def _zoo(args: argparse.Namespace) -> int:
    print(json.dumps([asdict(entry) for entry in zoo.ZOO], indent=2) if args.json else zoo.listing())
    return 0


def _fetch(args: argparse.Namespace) -> int:
    entry = zoo.find(args.source)
    if entry is None:
        if "://" not in args.source:
            raise WeightsError(f"{args.source} is not in the zoo (icmformer weights zoo), and not an https address")
        path = _download(args.source, args.sha256)
        if not args.sha256:
            _tell_unchecked(path)
        return _tell_use(path)
    zoo.check_fetchable(entry)
    if args.sha256 and entry.sha256 and args.sha256.lower() != entry.sha256:
        raise WeightsError(
            f"the zoo knows {entry.name} by sha256 {entry.sha256}, not {args.sha256}; nothing was fetched"
        )
    path = _download(entry.url, args.sha256 or entry.sha256, entry.size, entry.file)
    print(f"{entry.what}; licence: {entry.licence}")
    if args.sha256 or entry.sha256:
        print("size and sha256 as known" if entry.size else "sha256 as given")
    else:
        _tell_unchecked(path)
    if entry.use == "serve":
        return _tell_use(path)
    print(f"{path}\nuse it as --start {entry.name}, for {', '.join(entry.networks)}")
    return 0


def _download(url: str, sha256: str | None, size: int | None = None, name: str | None = None) -> Path:
    with tqdm(unit="B", unit_scale=True, desc=name or url.rsplit("/", 1)[-1]) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        return weights.fetch(url, sha256, progress, size=size, name=name)


def _tell_unchecked(path: Path) -> None:
    print(
        f"NOT CHECKED: no sha256 of it is known. {path.name} came with {path.stat().st_size:,} bytes and sha256 "
        f"{file_sha256(path)}"
    )


def _tell_use(path: Path) -> int:
    found = weights.load(path)
    print(f"{path}\nuse it as --weights {found.name}")
    return 0
