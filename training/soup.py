"""Averages the parameters of weights of one network: `python -m training.soup W1 W2 -o FOLDER`.

The mean of weights before and after a further training, or of several trainings from one start, is often better than
each (Wortsman et al., Robust fine-tuning and Model soups, both 2022). Measure before you believe it. Name, facts and
serving defaults are the last one's; its ranges for int8 are left out: measure them with training.quantise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from icmformer.errors import ConfigError, WeightsError
from icmformer.weights import MODEL_FILE, Weights, load, save
from icmformer.weights.quantise import STORED

from .command_line import command_parser, exit_status


def soup(weights: Sequence[Weights], shares: Sequence[float]) -> dict[str, torch.Tensor]:
    """The weighted mean of each parameter, computed in fp64.

    Args:
        weights: Of the same network.
        shares: What each counts; they add up to 1.

    Raises:
        ConfigError: Fewer than two weights, another number of shares, or shares that do not add up to 1.
        WeightsError: Weights of different networks.
    """
    if len(weights) < 2 or len(shares) != len(weights):
        raise ConfigError(f"a soup takes two weights or more and a share of each, got {len(weights)} and {len(shares)}")
    if abs(sum(shares) - 1) > 1e-6:
        raise ConfigError(f"shares add up to 1, got {' + '.join(f'{share:g}' for share in shares)}")
    other = next((w for w in weights if w.config != weights[0].config), None)
    if other:
        raise WeightsError(f"{other.name} is of another network than {weights[0].name}")
    mean = dict(weights[-1].state_dict)
    for name, value in mean.items():
        if value.is_floating_point():  # others, such as Swin's table of positions, are the same in all
            parts = [w.state_dict[name].double() * share for w, share in zip(weights, shares, strict=True)]
            mean[name] = torch.stack(parts).sum(dim=0).to(value.dtype)
    return mean


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = command_parser("soup", __doc__)
    parser.add_argument("weights", nargs="+", help="names or paths of the weights")
    parser.add_argument("--shares", type=float, nargs="+", help="what each counts (all alike)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--name", help="the weights' name (that of the last)")
    parser.add_argument("--store", choices=STORED, default="fp32", help="how numbers are stored (fp32)")
    args = parser.parse_args(argv)
    return exit_status(lambda: _soup(args), "stopped; nothing is written", args.output)


def _soup(args: argparse.Namespace) -> None:
    if (args.output / MODEL_FILE).exists():
        raise WeightsError(f"{args.output} already holds weights; name another folder")
    weights = [load(name) for name in args.weights]
    shares = args.shares or [1 / len(weights)] * len(weights)
    state, last = soup(weights, shares), weights[-1]
    parts = [{"name": w.name, "sha256": w.sha256, "share": s} for w, s in zip(weights, shares, strict=True)]
    about = {**last.about, "soup": parts}
    save(args.output, last.config, state, args.name or last.name, about, args.store, last.serving)
    told = " + ".join(f"{share:g} {w.name}" for w, share in zip(weights, shares, strict=True))
    print(f"{args.output}: {told}")


if __name__ == "__main__":
    sys.exit(main())
