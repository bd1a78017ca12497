"""`python -m training.export RUN -o FOLDER`: the averaged weights of a training run in the native form."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from icmformer.errors import IcmformerError, WeightsError
from icmformer.weights import save
from icmformer.weights.quantise import STORED
from icmformer.weights.serving_defaults import ServingDefaults


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder, or a checkpoint in it")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--name", help="the weights' name (the output folder's)")
    parser.add_argument("--store", choices=STORED, default="fp16", help="how numbers are stored (fp16)")
    args = parser.parse_args(argv)
    path = args.run / "checkpoint.pt" if args.run.is_dir() else args.run
    try:
        if not path.is_file():
            raise WeightsError(f"there is no checkpoint {path}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        config, state = checkpoint["config"], checkpoint["state"]
        about = {"samples": state["seen"], "training": config}
        name = args.name or args.output.name
        serving = ServingDefaults.of(config)
        save(args.output, config["network"], state["average"], name, about, args.store, serving)
    except (IcmformerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: after {state['seen']:,} samples")
    return 0


if __name__ == "__main__":
    sys.exit(main())
