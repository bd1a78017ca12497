"""Options that commands share."""

from __future__ import annotations

import argparse

from icmformer.inference.profiles import PROFILES


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Adds --weights, --device and --profile, which are None where the settings count."""
    parser.add_argument("--weights", help="name or path of the weights (ICMFORMER_WEIGHTS, else starter)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (ICMFORMER_DEVICE, else auto)")
    parser.add_argument(
        "--profile",
        choices=list(PROFILES),
        help="exact: as published; fast: no flip, in what suits the processor (ICMFORMER_PROFILE, else fast)",
    )
