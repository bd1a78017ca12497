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
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from tqdm import tqdm

from icmformer.errors import ConfigError
from icmformer.imageio import read_image
from icmformer.inference.profiles import find_device
from icmformer.models import network_config
from icmformer.weights import MIN_CROP_SIZE, Weights, load, save
from training.annotations.labelmap import AnnotatedPhoto
from training.annotations.read import read_annotations
from training.command import exit_status
from training.config import parse_config
from training.evaluate import Run, evaluate
from training.finetune_report import write_report
from training.train import main as train

NOT_PROMOTED = 3
"""Exit status of a run whose weights are no better."""


LEAST_SEEN = 0.0001
"""Share of the input a target covers at least: a team's objects are trained on however small they are."""


@dataclasses.dataclass(frozen=True)
class Split:
    """How many photos and objects went where, and the photos' median long side in pixels."""

    train_photos: int
    train_objects: int
    held_photos: int
    held_objects: int
    long_side: int

    @property
    def min_crop_size(self) -> int:
        """Least side of a zoomed region: a fifth of the photos' side; the published 200 pixels suit photos of 1,000."""
        return min(max(self.long_side // 5, 48), MIN_CROP_SIZE)


def prepare(photos: list[AnnotatedPhoto], out: Path, share: float) -> Split:
    """Writes the two parts as folders of `images/` and `masks/`: `out/train` and `out/held_out`.

    A photo's part depends on its content and the other photos': the same export is always split the same way.

    Raises:
        ConfigError: Fewer than two photos, two of one name, or a map of another size than its photo.
    """
    if len(photos) < 2:
        raise ConfigError(f"{len(photos)} annotated photos are too few: one trains, the other tells the gain")
    twice = [name for name, count in Counter(photo.name for photo in photos).items() if count > 1]
    if twice:
        raise ConfigError(f"several photos are called {', '.join(sorted(twice)[:5])}; give them names of their own")
    order = sorted(photos, key=lambda photo: hashlib.sha256(photo.image.read_bytes()).digest())
    held = {photo.name for photo in order[: min(max(1, round(share * len(photos))), len(photos) - 1)]}
    counts = {True: [0, 0], False: [0, 0]}
    sides = []
    for photo in tqdm(photos, desc="preparing", unit="photo"):
        part = out / ("held_out" if photo.name in held else "train")
        pixels = read_image(photo.image).pixels
        sides.append(max(pixels.shape[:2]))
        if pixels.shape[:2] != photo.labels.shape:
            raise ConfigError(
                f"{photo.image} has {pixels.shape[1]} x {pixels.shape[0]} pixels, its annotation "
                f"{photo.labels.shape[1]} x {photo.labels.shape[0]}"
            )
        for folder, picture in (("images", pixels), ("masks", _never_only_255(photo.labels))):
            (part / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(part / folder / f"{photo.name}.png", compress_level=1)
        counts[photo.name in held][0] += 1
        counts[photo.name in held][1] += len(set(np.unique(photo.labels).tolist()) - {0, 255})
    return Split(*counts[False], *counts[True], int(np.median(sides)))


def _never_only_255(labels: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A folder takes a map of 0 and 255 alone for one object; here it would be nothing but ignored."""
    if set(np.unique(labels).tolist()) <= {0, 255}:
        return np.zeros_like(labels)
    return labels


def train_config(weights: Weights, samples: int, batch: int, lr: float, seed: int) -> dict[str, Any]:
    """The training config: short, warm, and gentle with what is known already."""
    raw = {
        "network": weights.config,
        "size": network_config(weights.config).img_size,
        "batch": batch,
        "samples": samples,
        "seed": seed,
        "channels_last": "hybrid" in str(weights.config.get("family")),
        "precision": "bf16",
        "data": {"shards": ["train"], "balance": "objects", "least": 0.0},
        "augment": {"least": LEAST_SEEN},
        "optim": {
            "lr": lr,
            "weight_decay": 0.02,
            "warmup_samples": samples // 20,
            "schedule": "cosine",
            "ema": 0.99,
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
        passes=None,
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
    parser.add_argument("--held-out", type=float, default=0.2, metavar="SHARE", help="of the photos set aside (0.2)")
    parser.add_argument("--samples", type=int, default=3000, help="training samples (3000)")
    parser.add_argument("--batch", type=int, default=8, help="samples a step (8)")
    parser.add_argument("--lr", type=float, default=1e-4, help="peak learning rate (1e-4)")
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
    if min(args.samples, args.batch, args.objects, args.jobs) < 1 or args.workers < 0 or not args.lr > 0:
        raise ConfigError("--samples, --batch, --objects, --jobs and --lr must be positive")


def _finetune(args: argparse.Namespace) -> int:
    _check(args)
    weights = load(args.weights)
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
    candidate = _candidate(args, config, weights, split)
    if candidate is None:
        print(f"stopped; run the same command to go on: {args.out}", file=sys.stderr)
        return 130
    after = _measure(str(candidate), "after", args, args.out / "after")
    promoted = after["noc"]["90"] < before["noc"]["90"]
    target = args.out / "weights"
    shutil.rmtree(target, ignore_errors=True)
    if promoted:
        candidate.rename(target)
    facts = {**_facts(args, split), **({"mind": doubt} if doubt else {})}
    report = write_report(args.out, facts, before, after, promoted, target)
    change = 100 * (after["noc"]["90"] / before["noc"]["90"] - 1)
    print(f"\nclicks to 90% IoU: {before['noc']['90']:.2f} before, {after['noc']['90']:.2f} after ({change:+.0f}%)")
    print(f"promoted: {target}" if promoted else f"NOT promoted, no better than {args.weights}; kept as {candidate}")
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
        "annotations": str(args.annotations.resolve()),
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


def _prepared(args: argparse.Namespace) -> Split:
    """The two parts, made once."""
    mark = args.out / "data" / "split.json"
    if mark.exists():
        known = json.loads(mark.read_text())
        args.skipped = known["skipped"]
        return Split(**known["split"])
    shutil.rmtree(args.out / "data", ignore_errors=True)
    print(f"reading {args.annotations}", flush=True)
    photos = list(read_annotations(args.annotations, args.images, args.out / "unpacked"))
    skipped = sum((Counter(photo.skipped) for photo in photos), Counter[str]())
    args.skipped = ", ".join(f"{number} x {kind}" for kind, number in sorted(skipped.items()))
    split = prepare([photo for photo in photos if photo.labels.any()], args.out / "data", args.held_out)
    mark.write_text(json.dumps({"skipped": args.skipped, "split": dataclasses.asdict(split)}))
    return split


def _candidate(args: argparse.Namespace, config: Mapping[str, Any], weights: Weights, split: Split) -> Path | None:
    """The trained weights in the native form; None where the training was stopped before its end."""
    checkpoint = torch.load(args.out / "run" / "checkpoint.pt", map_location="cpu", weights_only=True)
    if checkpoint["state"]["seen"] + config["batch"] <= config["samples"]:
        return None
    about = {
        "fine_tuning": {
            "from": weights.name,
            "from_sha256": weights.sha256,
            "annotations": args.annotations.name,
            "photos": split.train_photos,
            "objects": split.train_objects,
            "samples": checkpoint["state"]["seen"],
            "batch": args.batch,
            "lr": args.lr,
            "seed": args.seed,
        },
        "parent": dict(weights.about),
    }
    crop = min(split.min_crop_size, weights.min_crop_size)
    folder: Path = args.out / "candidate"
    shutil.rmtree(folder, ignore_errors=True)
    name = args.name or args.out.name
    return save(folder, config["network"], checkpoint["state"]["average"], name, about, True, crop)


def _facts(args: argparse.Namespace, split: Split) -> dict[str, Any]:
    return {
        "annotations": args.annotations.name,
        "began with": args.weights,
        "trained on": f"{split.train_photos} photos, {split.train_objects} objects, {args.samples:,} samples",
        "set aside": f"{split.held_photos} photos, {split.held_objects} objects, at most {args.objects} played",
        "learning rate, batch": f"{args.lr:g}, {args.batch}",
        "profile of the play": args.profile,
        **({"skipped, since they outline nothing": args.skipped} if args.skipped else {}),
        "least region zoomed into": f"{split.min_crop_size} pixels (photos of some {split.long_side})",
    }


if __name__ == "__main__":
    sys.exit(main())
