"""What decides a fine-tuning run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icmformer.errors import ConfigError
from icmformer.weights import Weights, version_of

from ..data.folders import IMAGE_ENDINGS
from .groups import check_rule
from .projects.project import Project
from .projects.snapshots import Snapshots
from .readers.annotations import Orientation
from .readers.detect import Export
from .readers.files import folder_files


@dataclass(frozen=True)
class FinetuneSettings:
    """A team's annotations, the weights to begin with, and how to train and judge: the options of the command.

    Attributes:
        annotations: An export; None where a project is read straight from its tool.
        project: Such a project.
        refresh: Read the project again, although the run has read it already.
        file: Which file of a zip or folder holds the annotations; see `Export`.
        label_config: Label Studio's labelling config.
        predictions: Take predictions of Label Studio's tasks that nobody annotated.
        orientation: Frame of the annotations of photos with an EXIF orientation; None leaves it to the tool's rule.
        held_out: Share of the photos that decide.
        choosing: Share of the photos on which the zoom is chosen.
        group_by: Which photos are kept on one side; see `find_groups`.
        weights: Name or path of those to begin with.
        promote: Store of versions that promoted weights are added to, by path or name.
        lr: Peak learning rate; None leaves it to the network's family.
        devices: The first trains, all of them evaluate.

    Raises:
        ConfigError: A value that cannot be used.
    """

    annotations: Path | None
    out: Path
    project: Project | None = None
    refresh: bool = False
    images: Path | None = None
    file: str | None = None
    label_config: Path | None = None
    predictions: bool = False
    orientation: Orientation | None = None
    weights: str = "starter"
    name: str | None = None
    install: bool = False
    promote: str | None = None
    held_out: float = 0.2
    choosing: float = 0.1
    group_by: str = "auto"
    samples: int = 3000
    batch: int = 8
    lr: float | None = None
    objects: int = 200
    profile: str = "fast"
    devices: Sequence[str] = ("auto",)
    jobs: int = 1
    workers: int = 1
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.annotations is None) == (self.project is None):
            raise ConfigError("an export or a project of a tool says what to read; give one of them")
        of_export = {"--images": self.images, "--file": self.file, "--label-config": self.label_config}
        wrong = [name for name, value in of_export.items() if value is not None]
        if self.project is not None and wrong:
            raise ConfigError(f"{', '.join(wrong)}: only an export needs that; the tool is asked for it")
        if self.refresh and self.project is None:
            raise ConfigError("--refresh goes with --label-studio or --cvat; an export is read again where it changed")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"--held-out must lie between 0 and 1, got {self.held_out}")
        if not 0 <= self.choosing < 1:
            raise ConfigError(f"--choosing must lie in [0, 1), got {self.choosing}")
        if self.held_out + self.choosing >= 1:
            raise ConfigError("--held-out and --choosing leave nothing to train on; together they must be under 1")
        check_rule(self.group_by)
        numbers = self.samples, self.batch, self.objects, self.jobs
        if min(numbers) < 1 or self.workers < 0 or (self.lr is not None and not self.lr > 0):
            raise ConfigError("--samples, --batch, --objects, --jobs and --lr must be positive")

    @property
    def snapshots(self) -> Snapshots:
        """What is drawn in a tool's project, as it was when it was read."""
        return Snapshots(self.out)

    @property
    def data(self) -> Path:
        """Folder of the parts of the photos."""
        return self.out / "data"

    @property
    def source(self) -> str:
        """What is read, for people."""
        if self.project is not None:
            return self.project.name
        assert self.annotations is not None
        return self.annotations.name

    @property
    def export(self) -> Export:
        """What is read, where that is no project of a tool."""
        assert self.annotations is not None
        return Export(self.annotations, self.images, self.file, self.label_config, self.predictions)

    def folder(self) -> Path:
        """The run's folder, made where there is none.

        Raises:
            ConfigError: It cannot be made.
        """
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out {self.out} cannot be made: {error.strerror}") from error
        return self.out

    def claim(self, weights: Weights) -> None:
        """Writes into the run's folder what decides the run, so that another one is not mixed in.

        The annotations are not part of it, only the project that they are read from, if any: mended ones may be given
        again, see `export_digest`. A run that has no data
        yet, since its export could not be used, may get other settings.

        Raises:
            ConfigError: The folder is another run's; nothing in it has changed.
        """
        deciding = {
            "held out": self.held_out,
            "choosing": self.choosing,
            "group by": self.group_by,
            "weights": weights.identity,
            "samples": self.samples,
            "batch": self.batch,
            "learning rate": self.lr,
            "seed": self.seed,
            "objects": self.objects,
            "profile": self.profile,
            "project": self.project and self.project.identity,
        }
        known = self.known()
        if known is None:
            version = weights.path and version_of(weights.path)  # kept for `bound`; the weights' identity decides
            self._mark.write_text(json.dumps({**deciding, "version": version}, indent=2) + "\n")
            return
        other = ", ".join(sorted(key for key, value in deciding.items() if value != known.get(key)))
        if other:
            raise ConfigError(f"{self.out} holds another run (different {other}); give another --out, or delete it")

    def known(self) -> dict[str, Any] | None:
        """What decides the run in the folder; None where there is none that has data yet."""
        if not self._mark.exists() or not any((self.out / name).exists() for name in (self.data.name, "run")):
            return None
        known: dict[str, Any] = json.loads(self._mark.read_text())
        return known

    @property
    def _mark(self) -> Path:
        return self.out / "settings.json"

    def export_digest(self) -> str:
        """Digest of what is read and how: of files their content, of folders their files' names, sizes and times.

        Raises:
            ConfigError: There is no such file or folder.
        """
        whole = hashlib.sha256(f"{self.file} {self.predictions} {self.orientation}".encode())
        if self.annotations is None:
            for page in sorted(self.snapshots.current.glob("*.json")):
                whole.update(f"{page.name} {next(_content(page, self.out, None))}\n".encode())
            return whole.hexdigest()
        photos = self.images or (self.annotations.parent if self.annotations.is_file() else None)
        for path in (self.annotations, self.label_config, photos):
            if path is not None and not path.exists():
                raise ConfigError(f"there is no {path}")
            lines = _content(path, self.out, IMAGE_ENDINGS if path == photos else None) if path else ["none"]
            for line in lines:
                whole.update(f"{line}\n".encode(errors="surrogateescape"))
        return whole.hexdigest()


def _content(path: Path, out: Path, endings: Container[str] | None) -> Iterator[str]:
    """What names the content of a file, or of a folder's files with these endings, but for the run's own."""
    if path.is_file():
        with path.open("rb") as file:
            yield hashlib.file_digest(file, "sha256").hexdigest()
        return
    for name, inner in folder_files(path, without=out).items():
        if endings is None or inner.suffix.lower() in endings:
            facts = inner.stat()
            yield f"{name} {facts.st_size} {facts.st_mtime_ns}"
