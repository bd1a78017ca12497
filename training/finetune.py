"""Fine-tunes a network on a team's own annotations: `python -m training.finetune --annotations EXPORT --out RUN`.

Reads COCO JSON, CVAT for images 1.1, Label Studio JSON (also zipped) or a folder of images/ and masks/; sets a part
of the photos aside; trains on the rest; plays the simulated annotator on the part set aside before and after. Only
where fewer clicks are needed the new weights become RUN/weights, which servers and commands load by that path;
RUN/report.html says how it went either way. Run the same command again to go on after a stop.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from icmformer.errors import ConfigError
from icmformer.inference.profiles import find_device
from icmformer.models import network_config
from icmformer.settings import Settings
from icmformer.weights import Weights, load, save
from training.command import exit_status
from training.evaluate import Run, evaluate
from training.finetuning.readers.detect import read_annotations
from training.finetuning.report import write_report
from training.finetuning.split import Split, prepare
from training.loop.config import parse_config
from training.train import main as train

NOT_PROMOTED = 3
"""Exit status of a run whose weights are no better."""


LEAST_SEEN = 0.0001
"""Share of the input a target covers at least: a team's objects are trained on however small they are."""


def train_config(weights: Weights, samples: int, batch: int, lr: float, seed: int) -> dict[str, Any]:
    """The training config: short, warm, gentle with what is known already, and with few photos seen in many ways."""
    hybrid = "hybrid" in str(weights.config.get("family"))
    raw = {
        "network": weights.config,
        "size": network_config(weights.config).img_size,
        "batch": batch,
        "samples": samples,
        "seed": seed,
        "channels_last": hybrid,
        "precision": "bf16",
        "data": {"shards": ["train"], "balance": "objects", "least": 0.0},
        "augment": {
            "least": LEAST_SEEN,
            "turns": True,
            "tilt": 15.0,
            "resize": [0.75, 2.0],
            "brightness": [-0.3, 0.3],
        },
        "optim": {
            "lr": lr,
            "weight_decay": 0.02,
            "warmup_samples": samples // 20,
            "schedule": "cosine",
            "ema": 0.99,
            "lr_factors": {"backbone.trunk.": 0.2} if hybrid else {},
        },
        "points": {"gamma": 0.35, "centre_first": 0.5, "max_points": 12},
        "pictures": max(samples // 4, 1),
    }
    parse_config(raw)
    return raw


def _measure(path: str, name: str, args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The figures of some weights on the part set aside."""
    weights = load(path)
    side = network_config(weights.config).img_size
    root = args.out / "data" / "held_out"
    run = Run(
        weights=path,
        identity=weights.identity,
        dataset="label-maps",
        root=str(root.resolve()),
        profile=args.profile,
        size=(side, side),
        target_iou=None,
        served=None,
        box=None,
        limit=args.objects,
    )
    print(f"{name}: playing on the part set aside", flush=True)
    return evaluate(run, root, out, args.device.split(","), args.jobs, overlays=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.finetune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=Path, required=True, metavar="EXPORT", help="file, zip or folder")
    parser.add_argument("--images", type=Path, metavar="DIR", help="the photos' folder (beside the file or in the zip)")
    parser.add_argument("--weights", default="starter", help="name or path of the weights to begin with (starter)")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run's folder")
    parser.add_argument("--name", help="name of the new weights (that of RUN)")
    parser.add_argument("--install", action="store_true", help="also put promoted weights where names are looked for")
    parser.add_argument("--held-out", type=float, default=0.2, metavar="SHARE", help="of the photos set aside (0.2)")
    parser.add_argument("--samples", type=int, default=3000, help="training samples (3000)")
    parser.add_argument("--batch", type=int, default=8, help="samples a step (8)")
    parser.add_argument("--lr", type=float, help="peak learning rate (3e-4; 5e-5 for plain ViTs and Swins)")
    parser.add_argument("--objects", type=int, default=200, help="objects played on, spread over the part (200)")
    parser.add_argument("--profile", choices=["exact", "fast"], default="fast", help="of the play (fast)")
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one; the default), cpu, cuda:N")
    parser.add_argument("--jobs", type=int, default=1, help="processes that play (1)")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare samples (1)")
    parser.add_argument("--threads", type=int, help="CPU threads of the training (torch's choice)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random in the training (0)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line.

    Returns:
        0 where the new weights were promoted, 3 where they are no better, 2 for a mistake, 130 for Ctrl-C.
    """
    args = _parser().parse_args(argv)
    return exit_status(lambda: _finetune(args), f"stopped; run the same command to go on: {args.out}")


def _check(args: argparse.Namespace) -> None:
    if not 0 < args.held_out < 1:
        raise ConfigError(f"--held-out must lie between 0 and 1, got {args.held_out}")
    if (
        min(args.samples, args.batch, args.objects, args.jobs) < 1
        or args.workers < 0
        or (args.lr is not None and not args.lr > 0)
    ):
        raise ConfigError("--samples, --batch, --objects, --jobs and --lr must be positive")


def _finetune(args: argparse.Namespace) -> int:
    _check(args)
    weights = load(args.weights)
    if args.lr is None:
        args.lr = 3e-4 if "hybrid" in str(weights.config.get("family")) else 5e-5
    args.device = ",".join(str(find_device(name)) for name in args.device.split(","))
    args.out.mkdir(parents=True, exist_ok=True)
    _claim(args, weights)
    split = _prepared(args)
    print(
        f"{split.train_photos} photos with {split.train_objects} objects to train on, {split.held_photos} with "
        f"{split.held_objects} set aside",
        flush=True,
    )
    if args.skipped:
        print(f"skipped, since they outline nothing: {args.skipped}")
    if not split.train_objects or not split.held_objects:
        raise ConfigError("one of the two parts holds no object; annotate more photos, or change --held-out")
    doubt = _doubt(args, split)
    if doubt:
        print(f"warning: {doubt}", file=sys.stderr)
    before = _measure(args.weights, "before", args, args.out / "before")
    config = train_config(weights, args.samples, args.batch, args.lr, args.seed)
    file = args.out / "config.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    command = [
        str(file),
        "--data-root",
        str(args.out / "data"),
        "--out",
        str(args.out / "run"),
        "--start",
        args.weights,
    ]
    command += ["--device", args.device.split(",")[0], "--workers", str(args.workers), "--save-minutes", "2"]
    if args.threads:
        command += ["--threads", str(args.threads)]
    status = train(command)
    if status == 130:
        raise KeyboardInterrupt
    if status:
        return status
    trained = _trained(args, config)
    if trained is None:
        print(f"stopped; run the same command to go on: {args.out}", file=sys.stderr)
        return 130
    zooms = sorted({split.min_crop_size, weights.serving.min_crop_size}, reverse=True)
    tried: dict[int, dict[str, Any]] = {}
    for crop in zooms:
        folder = _candidate(args, config, weights, split, trained, crop)
        tried[crop] = _measure(str(folder), f"after, zooming in to {crop} pixels", args, args.out / f"after-{crop}")
    best = min(zooms, key=lambda crop: tried[crop]["noc"]["90"])
    after = tried[best]
    candidate = _candidate(args, config, weights, split, trained, best)
    promoted = after["noc"]["90"] < before["noc"]["90"]
    target = args.out / "weights"
    if promoted:
        _replace(candidate, target)
    zoomed = {f"clicks zooming in to {crop} pixels": f"{tried[crop]['noc']['90']:.2f}" for crop in zooms}
    facts = {**_facts(args, split), **zoomed, **({"mind": doubt} if doubt else {})}
    report = write_report(args.out, f"after-{best}", facts, before, after, promoted, target)
    change = 100 * (after["noc"]["90"] / before["noc"]["90"] - 1)
    print(f"\nclicks to 90% IoU: {before['noc']['90']:.2f} before, {after['noc']['90']:.2f} after ({change:+.0f}%)")
    print(f"promoted: {target}" if promoted else f"NOT promoted, no better than {args.weights}; kept as {candidate}")
    if promoted and args.install:
        print(f"servers and commands know them as {_install(target)}")
    print(f"report: {report}")
    return 0 if promoted else NOT_PROMOTED


_FEW = 20  # objects; the gain on fewer says little


def _doubt(args: argparse.Namespace, split: Split) -> str:
    played = min(split.held_objects, args.objects)
    if played >= _FEW:
        return ""
    return (
        f"only {played} objects of {split.held_photos} photos tell whether it got better, which may be chance; set "
        "more photos aside with --held-out, or play more with --objects"
    )


def _claim(args: argparse.Namespace, weights: Weights) -> None:
    """The folder is this run's; one with other settings is refused before anything in it changes."""
    settings = {
        "annotations": _digest(args.annotations),
        "images": str(args.images.resolve()) if args.images else None,
        "held out": args.held_out,
        "weights": weights.identity,
        "samples": args.samples,
        "batch": args.batch,
        "learning rate": args.lr,
        "seed": args.seed,
        "objects": args.objects,
        "profile": args.profile,
    }
    mark = args.out / "settings.json"
    if not mark.exists():
        mark.write_text(json.dumps(settings, indent=2) + "\n")
        return
    known = json.loads(mark.read_text())
    other = sorted(key for key in settings if settings[key] != known.get(key))
    if other:
        raise ConfigError(f"{args.out} holds another run (other {', '.join(other)}); give another --out, or delete it")


def _digest(path: Path) -> str:
    """Names an export by its content; a folder by its files' names, sizes and times."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file())
    told = [f"{p.relative_to(path)} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _prepared(args: argparse.Namespace) -> Split:
    """The two parts, made once."""
    mark = args.out / "data" / "split.json"
    if mark.exists():
        known = json.loads(mark.read_text())
        args.skipped = known["skipped"]
        return Split(**known["split"])
    shutil.rmtree(args.out / "data", ignore_errors=True)
    print(f"reading {args.annotations}", flush=True)
    photos = read_annotations(args.annotations, args.images, args.out / "unpacked")
    split, skipped = prepare(photos, args.out / "data", args.held_out)
    args.skipped = ", ".join(f"{number} x {kind}" for kind, number in sorted(skipped.items()))
    mark.write_text(json.dumps({"skipped": args.skipped, "split": dataclasses.asdict(split)}))
    return split


def _trained(args: argparse.Namespace, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state after training; None where it was stopped before its end."""
    checkpoint = torch.load(args.out / "run" / "checkpoint.pt", map_location="cpu", weights_only=True)
    state: dict[str, Any] = checkpoint["state"]
    return None if state["seen"] + config["batch"] <= config["samples"] else state


def _candidate(
    args: argparse.Namespace,
    config: Mapping[str, Any],
    weights: Weights,
    split: Split,
    state: Mapping[str, Any],
    crop: int,
) -> Path:
    """The trained weights in the native form, with a least region to zoom into."""
    about = {
        "fine_tuning": {
            "from": weights.name,
            "from_sha256": weights.sha256,
            "annotations": args.annotations.name,
            "photos": split.train_photos,
            "objects": split.train_objects,
            "samples": state["seen"],
            "batch": args.batch,
            "lr": args.lr,
            "seed": args.seed,
        },
        "parent": dict(weights.about),
    }
    folder: Path = args.out / "candidate"
    shutil.rmtree(folder, ignore_errors=True)
    return save(
        folder,
        config["network"],
        state["average"],
        args.name or args.out.name,
        about,
        "fp16",
        dataclasses.replace(weights.serving, min_crop_size=crop),
    )


def _install(weights: Path) -> str:
    """Copies weights into the cache folder; the name by which they are found there."""
    name = load(weights).name
    home = Settings.from_environment().cache_dir / "weights"
    home.mkdir(parents=True, exist_ok=True)
    part = home / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(weights, part)
    _replace(part, home / name)
    return name


def _replace(source: Path, target: Path) -> None:
    """Puts a folder in another's place; whoever has opened the old one keeps it."""
    old = target.with_name(f"{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    source.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _facts(args: argparse.Namespace, split: Split) -> dict[str, Any]:
    return {
        "annotations": args.annotations.name,
        "began with": args.weights,
        "trained on": f"{split.train_photos} photos, {split.train_objects} objects, {args.samples:,} samples",
        "set aside": f"{split.held_photos} photos, {split.held_objects} objects, at most {args.objects} played",
        "learning rate, batch": f"{args.lr:g}, {args.batch}",
        "profile of the play": args.profile,
        **({"skipped, since they outline nothing": args.skipped} if args.skipped else {}),
        "photos' long side": f"{split.long_side} pixels (median)",
    }


if __name__ == "__main__":
    sys.exit(main())
