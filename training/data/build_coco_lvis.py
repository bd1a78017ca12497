"""Builds the combined COCO+LVIS training set: `python -m training.data.build_coco_lvis --lvis JSON ... --out DIR`.

Joins LVIS's instances with COCO's panoptic things and stuff by the rules of `training.data.coco_lvis.rules`, image by
image, on all cores; or takes the community's pickles (`--community DIR`), without running what is in them. Writes zip
shards of PNG layers, which training reads as they are, and `skipped.jsonl`: each annotation that was left out because
it outlines nothing or cannot be read. Stopped, the same command goes on. What to get from where:
`python -m training.data.download`.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import multiprocessing
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from icmformer.errors import ConfigError

from ..command_line import command_parser, exit_status
from .coco_lvis.community import Community
from .coco_lvis.originals import ImageId, Instances, Panoptic, Skipped, image_id
from .coco_lvis.rules import Object, combine
from .coco_lvis.store import FORMAT
from .coco_lvis.writing import write_shard

_SHARD = 500


@dataclass(frozen=True)
class Job:
    """What a process needs to know of the sources."""

    lvis: Path | None
    panoptic: Path | None
    panoptic_masks: Path | None
    instances: Path | None
    community: Path | None


class Builder:
    """Makes the objects of images."""

    def __init__(self, job: Job) -> None:
        self.community = Community(job.community) if job.community else None
        self.lvis = Instances(job.lvis) if job.lvis else None
        self.panoptic = Panoptic(job.panoptic, job.panoptic_masks) if job.panoptic and job.panoptic_masks else None
        self.instances = Instances(job.instances) if job.instances else None

    def image_keys(self) -> list[str]:
        """The images there are: LVIS's where it is given, else COCO's."""
        if self.community:
            return list(self.community.samples)
        first = self.lvis or self.panoptic or self.instances
        assert first is not None
        return [str(i) for i in sorted(first.images, key=lambda i: (isinstance(i, str), i))]

    def file(self, key: str) -> str:
        """An image's file name."""
        if self.community:
            return f"{key}.jpg"
        return self._known(image_id(key))[0]

    def _known(self, number: ImageId) -> tuple[str, int, int]:
        """An image's file name, height and width."""
        return next(source.images[number] for source in self._sources if number in source.images)

    @property
    def _sources(self) -> list[Instances | Panoptic]:
        return [source for source in (self.lvis, self.panoptic, self.instances) if source]

    @property
    def skipped(self) -> Skipped:
        """What the files hold that belongs to no image."""
        return [row for source in self._sources for row in source.skipped]

    def image(self, key: str, skipped: Skipped) -> tuple[str, str, list[Object], tuple[int, int]]:
        """Key, file name, objects and (height, width); `skipped` gets what was left out."""
        if self.community:
            objects, size = self.community.objects(key)
            return key, f"{key}.jpg", objects, (size[0], size[1])
        number = image_id(key)
        _, height, width = known = self._known(number)
        unlike = [s for s in self._sources if s.images.get(number, known)[1:] != (height, width)]
        skipped += [("an image of another size in one of the files", f"image {number} of {s.file}", "") for s in unlike]
        lvis = self.lvis.masks(number, skipped) if self.lvis and self.lvis not in unlike else []
        panoptic = self.panoptic if self.panoptic not in unlike else None
        things, stuff = panoptic.masks(number, skipped) if panoptic else ([], [])
        if not things and not stuff and self.instances and self.instances not in unlike:
            things = self.instances.masks(number, skipped)
        return key, known[0], combine(lvis, things, stuff), (height, width)


_builder: Builder | None = None  # of a child process


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class _Shard:
    """What one shard holds: objects by source and parts, and what was left out."""

    photos: int
    counts: dict[str, int]
    skipped: Skipped


def _shard(path: Path, keys: Sequence[str]) -> _Shard:
    assert _builder is not None
    builder, counts, skipped = _builder, Counter[str](), Skipped()

    def images() -> Iterator[tuple[str, str, list[Object], tuple[int, int]]]:
        for key in keys:
            image = builder.image(key, skipped)
            for item in image[2]:
                counts.update({item.source: 1, "parts": int(item.parent is not None)})
            yield image

    write_shard(path, images())
    return _Shard(len(keys), dict(counts), skipped)


def build(job: Job, out: Path, images: Path, excluded: frozenset[int], jobs: int, name: str) -> dict[str, int]:
    """Builds the set; shards that are there already are left as they are.

    Args:
        job: The sources.
        out: The set's folder.
        images: Folder of the image files.
        excluded: Images that are left out.
        jobs: Processes.
        name: Of the set, in training configs' `set_weights`.

    Returns:
        Images (`photos`), objects by source, objects that are parts of others, and what was left out by kind
        (`skipped: KIND`).

    Raises:
        ConfigError: Sources that cannot be read, or `out` holding a set of other sources.
    """
    builder = Builder(job)
    keys = [key for key in builder.image_keys() if not (key.isdecimal() and int(key) in excluded)]
    if not keys:
        raise ConfigError("the sources hold no image")
    out.mkdir(parents=True, exist_ok=True)
    about = {"format": FORMAT, "name": name, "images": os.path.relpath(images.resolve(), out.resolve())}
    plan = {**about, "photos": len(keys), "sources": {k: str(v) for k, v in vars(job).items() if v}, "shard": _SHARD}
    plan["keys"] = hashlib.sha256("\n".join(keys).encode()).hexdigest()
    _claim(out / "plan.json", plan)
    _check_images([builder.file(key) for key in keys], images)
    pieces = [keys[i : i + _SHARD] for i in range(0, len(keys), _SHARD)]
    tally = out / "counts.jsonl"
    done = {row["shard"]: row for row in _whole_lines(tally)}
    todo = [n for n in range(len(pieces)) if n not in done or not _path(out, n).exists()]
    with tqdm(total=len(keys), initial=len(keys) - sum(len(pieces[n]) for n in todo), unit="image") as bar:
        for number, shard in _run(builder, out, pieces, todo, jobs):
            done[number] = {"shard": number, "photos": shard.photos, **shard.counts, "skipped": shard.skipped}
            with tally.open("a") as file:
                file.write(json.dumps(done[number]) + "\n")
            bar.update(shard.photos)
    totals = Counter({"photos": 0})
    skipped: Skipped = builder.skipped
    for row in done.values():
        totals.update({key: value for key, value in row.items() if key not in ("shard", "skipped")})
        skipped += [(kind, name, why) for kind, name, why in row.get("skipped", ())]
    totals.update(f"skipped: {kind}" for kind, _, _ in skipped)
    _tell(skipped, out / "skipped.jsonl")
    (out / "set.json").write_text(json.dumps({**about, "counts": totals}, indent=1) + "\n")
    return totals


def _tell(skipped: Skipped, path: Path) -> None:
    """Writes what was left out, and prints the first of each kind."""
    with path.open("w") as file:
        for kind, name, why in skipped:
            file.write(json.dumps({"kind": kind, "name": name, "told": why}) + "\n")
    for kind, count in Counter(kind for kind, _, _ in skipped).most_common():
        name, why = next((name, why) for which, name, why in skipped if which == kind)
        more = f", and {count - 1:,} more: {path}" if count > 1 else ""
        line = f"skipped: {kind}: {name}{f' ({why})' if why else ''}{more}"
        print(line.encode(errors="backslashreplace").decode())  # names may hold what cannot be printed


def _claim(mark: Path, plan: dict[str, Any]) -> None:
    """The folder is this set's from now on, and no other's."""
    try:
        known = json.loads(mark.read_text()) if mark.exists() else None
    except ValueError:
        known = None  # cut short by a crash
    if known not in (None, plan):
        raise ConfigError(f"{mark.parent} holds a set of other sources or images; give another --out or delete it")
    part = mark.with_suffix(".part")
    part.write_text(json.dumps(plan))
    os.replace(part, mark)


def _check_images(names: Sequence[str], images: Path) -> None:
    """Finds now what training would miss at its first sample."""
    there = {entry.name for entry in os.scandir(images)}
    absent = [name for name in names if name not in there]
    if absent:
        raise ConfigError(
            f"{len(absent):,} of {len(names):,} images are not in {images} itself ({', '.join(absent[:3])}, ...): put "
            "those of train2017 and val2017 into that one folder"
        )


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines, without one that a crash cut short."""
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _run(
    builder: Builder, out: Path, pieces: list[list[str]], todo: list[int], jobs: int
) -> Iterator[tuple[int, _Shard]]:
    global _builder
    _builder = builder
    if jobs == 1:
        for number in todo:
            yield number, _shard(_path(out, number), pieces[number])
        return
    gc.freeze()  # the processes share what was read, as long as nobody writes to it
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, context, _start) as pool:
        futures = [(n, pool.submit(_shard, _path(out, n), pieces[n])) for n in todo]
        try:
            for number, future in futures:
                yield number, future.result()
        except BrokenProcessPool as error:
            raise ConfigError("a process died, most likely for lack of memory: try fewer --jobs") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _path(out: Path, number: int) -> Path:
    return out / f"shard-{number:05}.zip"


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("data.build_coco_lvis", __doc__)
    parser.add_argument("--lvis", type=Path, metavar="JSON", help="LVIS v1 annotations")
    parser.add_argument("--panoptic", type=Path, metavar="JSON", help="COCO's panoptic annotations")
    parser.add_argument("--panoptic-masks", type=Path, metavar="DIR", help="the folder of their PNG files")
    parser.add_argument("--instances", type=Path, metavar="JSON", help="COCO's instances, for images without panoptic")
    parser.add_argument("--community", type=Path, metavar="DIR", help="instead: a split of the community's set")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the image files")
    parser.add_argument(
        "--exclude",
        type=Path,
        metavar="FILE",
        help="images to leave out: ids, one a line, or the folder of COCO_MVal, whose images must not be trained on",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the set")
    parser.add_argument("--name", default="coco_lvis", help="of the set, for set_weights in configs (coco_lvis)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (as many as cores)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    args = _parser().parse_args(argv)
    return exit_status(lambda: _build(args), f"stopped; run the same command to go on: {args.out}", args.out)


def _build(args: argparse.Namespace) -> int:
    totals = build(_job(args), args.out, args.images, _excluded(args.exclude), args.jobs, args.name)
    print(", ".join(f"{value:,} {key}" for key, value in totals.items()) + f": {args.out}")
    return 0


def _job(args: argparse.Namespace) -> Job:
    if args.out is None or args.images is None:
        raise ConfigError("--out and --images are needed")
    if not args.images.is_dir():
        raise ConfigError(f"there is no folder {args.images}")
    if bool(args.panoptic) != bool(args.panoptic_masks):
        raise ConfigError("--panoptic and --panoptic-masks go together")
    originals = (args.lvis, args.panoptic, args.instances)
    if bool(args.community) == any(originals):
        raise ConfigError("give --lvis, --panoptic or --instances, or else --community")
    if args.jobs < 1:
        raise ConfigError("--jobs starts at 1")
    return Job(args.lvis, args.panoptic, args.panoptic_masks, args.instances, args.community)


def _excluded(path: Path | None) -> frozenset[int]:
    if path is None:
        print(
            "warning: no --exclude: if the images of COCO_MVal are among these, it is no benchmark for what they train"
        )
        return frozenset()
    if path.is_dir():
        found = {match[1] for p in path.rglob("*.*") if (match := re.match(r"0*(\d+)", p.stem))}
        if not found:
            raise ConfigError(f"{path} holds no file whose name begins with an image's id")
        return frozenset(map(int, found))
    try:
        return frozenset(int(line) for line in path.read_text().split())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no list of ids: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
