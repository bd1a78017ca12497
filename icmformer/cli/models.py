"""`icmformer models`: the registered networks."""

from __future__ import annotations

import argparse
import json
from typing import Any

from icmformer.models import VARIANTS, meta_network
from icmformer.models.config import config_mapping


def register(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "models",
        help="list the registered networks",
        description="Lists the registered networks with their numbers of parameters and input sizes.",
    )
    parser.add_argument("--json", action="store_true", help="print their configurations as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps({name: config_mapping(config) for name, config in VARIANTS.items()}, indent=2))
        return 0
    print(f"{'name':<26} {'parameters':>10}  {'input':>5}")
    for name, config in VARIANTS.items():
        network = meta_network(config)
        millions = sum(p.numel() for p in network.parameters()) / 1e6
        print(f"{name:<26} {millions:>8.1f} M  {config.img_size:>5}")
    return 0
