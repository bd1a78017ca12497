"""The data of a run: an export's photos in their parts, made once, and again where the export was mended."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icmformer.errors import ConfigError

from .gate import replace_folder
from .photos import prepare_photos
from .readers.annotations import AnnotatedPhoto
from .readers.detect import read_annotations
from .readers.reading_report import ReadingReport
from .settings import FinetuneSettings
from .split import Split, split

READING = "reading.jsonl"
"""File beside the parts: what was read, skipped and decided, each by name."""
_PARTS = "parts.json"


@dataclass(frozen=True)
class Prepared:
    """The parts of the photos, and what is to be told of how they were read, a line for each kind."""

    split: Split
    told: tuple[str, ...]


def prepared(settings: FinetuneSettings) -> Prepared:
    """The data of a run, read and split where it has none of this export or snapshot yet.

    Where that has changed since, and what is made of it is the same, the run goes on; else all begins anew, and
    what was made before is moved to `earlier-N` in the run's folder.

    Raises:
        ConfigError: An export that cannot be used, or one without a single photo of those that the run has.
        IcmformerError: A tool that cannot be reached, or refuses; see `Project`.
    """
    if settings.project is None:
        return _prepared(settings)
    settings.snapshots.take(settings.project, settings.refresh)
    try:
        made = _prepared(settings)
    except ConfigError:
        settings.snapshots.undo()
        raise
    settings.snapshots.settle()
    return made


def _prepared(settings: FinetuneSettings) -> Prepared:
    """The data of what is there now."""
    export = settings.export_digest()
    mark = settings.data / _PARTS
    known = json.loads(mark.read_text()) if mark.exists() else None
    if known and known["export"] == export:
        return _of(known)
    if known:
        print("the annotations have changed since this run began", flush=True)
    fresh = settings.out / "data.new"
    shutil.rmtree(fresh, ignore_errors=True)
    made = _read(settings, fresh)
    if known:
        try:
            _go_on_or_begin_anew(settings, _of(known).split, made.split)
        except ConfigError:
            shutil.rmtree(fresh)
            raise
    facts = {"export": export, "told": made.told, "photos": made.split.as_mapping()}
    (fresh / _PARTS).write_text(json.dumps(facts, indent=1))
    replace_folder(fresh, settings.data)
    return made


def _of(known: Mapping[str, Any]) -> Prepared:
    return Prepared(Split.from_mapping(known["photos"]), tuple(known["told"]))


def _read(settings: FinetuneSettings, out: Path) -> Prepared:
    """Reads the export into the folder `out`, of parts."""
    print(f"reading {settings.annotations or settings.source}", flush=True)
    report = ReadingReport()
    unpacked = settings.out / "unpacked"
    try:
        photos: Iterable[AnnotatedPhoto]
        if settings.project is not None:
            photos = settings.project.photos(settings.snapshots.current, report)
        else:
            photos = read_annotations(settings.export, unpacked, report, settings.out)
        done = prepare_photos(photos, out / "all", report, settings.orientation)
        made = split(done, out / "all", out, report, settings.held_out, settings.choosing, settings.group_by)
    except ConfigError as error:
        shutil.rmtree(out, ignore_errors=True)
        report.write(settings.out / READING)
        told = [str(error), *(line for line in report.lines() if line not in str(error))]
        raise ConfigError("\n".join([*told, f"each by name: {settings.out / READING}"])) from error
    finally:  # the photos are in the run's folder now, or not at all
        shutil.rmtree(unpacked, ignore_errors=True)
    report.write(out / READING)
    return Prepared(made, tuple(report.lines()))


def _go_on_or_begin_anew(settings: FinetuneSettings, old: Split, new: Split) -> None:
    """Moves what was made of other data aside, and says so.

    Raises:
        ConfigError: The new data have no photo of the old ones: another export, not a mended one.
    """
    if old.content == new.content:
        print("they make the same photos and masks: going on", flush=True)
        return
    if not {photo.pixels for photo in old.photos} & {photo.pixels for photo in new.photos}:
        raise ConfigError(f"{settings.out} holds a run on other photos; give another --out, or delete it")
    print("they make other photos or masks: training and evaluations begin anew", flush=True)
    if (settings.out / "weights").exists():
        print(f"{settings.out / 'weights'}, of the earlier annotations, stay until better ones replace them")
    print(f"what the run made before is kept in {_moved_aside(settings)}", flush=True)


def _moved_aside(settings: FinetuneSettings) -> Path:
    """Moves a run and its data into a folder within its own, which is a run's folder itself; gives its path.

    What stays in use is copied. The data go last: after a stop, this is done again with what is left.
    """
    out = settings.out
    target = next(path for number in itertools.count(1) if not (path := out / f"earlier-{number}").exists())
    target.mkdir()
    if (out / "settings.json").exists():
        shutil.copy2(out / "settings.json", target)
    if (out / "weights").exists():
        shutil.copytree(out / "weights", target / "weights")
    choosing = [path.name for path in out.glob("choosing-*")]
    if settings.project is not None and settings.snapshots.before.exists():
        settings.snapshots.before.rename(target / settings.snapshots.current.name)
    made = ("config.yaml", "run", "candidate", "before", *choosing, "after", "gate.json", "report.html")
    for name in (*made, settings.data.name):
        if (out / name).exists():
            (out / name).rename(target / name)
    return target
