"""Opens what a training config names below `--data-root`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icmformer.errors import ConfigError, IcmformerError, UnreadableImageError

from .coco_lvis.store import LayeredShards
from .folders import Folder
from .records import ImageSource
from .sbd_voc import LAYOUTS, Published
from .shards import open_shard

_NAMED = 8


class Images:
    """Several sources side by side, as one.

    Args:
        sources: The sources, by their names.
        permissive: Take only images whose licence is said to be permissive.

    Attributes:
        records: What is known of each image.
        unreadable: What was found unreadable when the sources were opened, and is not among the records.
        remarks: What else there is to say of the sources, for people.
    """

    def __init__(self, sources: Sequence[tuple[str, ImageSource]], permissive: bool = False) -> None:
        self._names = [name for name, _ in sources]
        self._sources = [source for _, source in sources]
        self._places = [
            (s, i)
            for s, source in enumerate(self._sources)
            for i, record in enumerate(source.records)
            if record.permissive or not permissive
        ]
        self.records = [self._sources[s].records[i] for s, i in self._places]
        self.unreadable: list[UnreadableImageError] = []
        self.remarks: list[str] = []
        for name, source in sources:
            self.unreadable += getattr(source, "unreadable", [])
            if others := getattr(source, "others", []):
                shown = ", ".join(others[:_NAMED]) + (", ..." if len(others) > _NAMED else "")
                self.remarks.append(f"{name}: {len(others):,} passed over that are no images: {shown}")

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """As the image's source gives it.

        Raises:
            UnreadableImageError: The image or its masks cannot be read, whatever the reason.
        """
        source, place = self._places[index]
        try:
            return self._sources[source].load(place)
        except MemoryError:
            raise
        except Exception as error:  # damaged files make libraries raise nearly anything
            if isinstance(error.__cause__, MemoryError):
                raise error.__cause__ from error
            why = str(error) if isinstance(error, IcmformerError) else f"{type(error).__name__}: {error}"
            raise UnreadableImageError(f"{self._names[source]}: {self.records[index].key}", why) from error

    def spread(self, count: int) -> Iterator[int]:
        """Numbers of at most `count` images, as many of each source as there are, spread evenly over it."""
        start, left = 0, min(count, len(self.records))
        taken = Counter(source for source, _ in self._places)
        sizes = [taken[source] for source in range(len(self._sources))]
        shares = dict.fromkeys(range(len(sizes)), 0)
        for rank, source in enumerate(sorted(shares, key=lambda n: sizes[n])):  # what a small one leaves, others take
            shares[source] = min(sizes[source], left // (len(sizes) - rank))
            left -= shares[source]
        for source, size in enumerate(sizes):
            yield from (start + n * size // shares[source] for n in range(shares[source]))
            start += size


def open_images(root: Path, names: Sequence[str], permissive: bool = False) -> Images:
    """Opens what `names` are below `root`, without the images that are held out.

    Args:
        root: The folder.
        names: Zip shards and folders below it.
        permissive: Leave out images whose licence is not said to be permissive.

    Raises:
        ConfigError: One that is not there or cannot be read, or no labelled image in any of them.
    """
    images = Images([(name, _open(root / name)) for name in names], permissive)
    if permissive and not images.records:
        raise ConfigError(f"data.permissive: no image in {', '.join(names)} of {root} is said to have such a licence")
    if not any(record.labels for record in images.records):
        why = f"; {len(images.unreadable):,} cannot be read: {images.unreadable[0]}" if images.unreadable else ""
        raise ConfigError(f"there is no labelled image to train on in {', '.join(names)} of {root}{why}")
    return images


def _open(path: Path) -> ImageSource:
    """Zip shards, sets of layered shards (`set.json`), SBD's and Pascal VOC's training parts, folders of pairs."""
    if path.suffix == ".zip":
        return open_shard(path)
    if not path.is_dir():
        raise ConfigError(
            f"there is no folder {path}: data.shards names zip shards and folders below --data-root (docs/training.md, "
            '"Data"; sets of COCO and LVIS are made by training.data.build_coco_lvis)'
        )
    try:
        if (path / "set.json").is_file():
            return LayeredShards(path)
        layout = next((known for known in LAYOUTS if (path / known.train).is_file()), None)
        return Published(path, layout) if layout else Folder(path)
    except (IcmformerError, MemoryError):
        raise
    except Exception as error:  # damaged files make libraries raise nearly anything
        raise ConfigError(f"{path} cannot be opened as a set of images ({type(error).__name__}: {error})") from error
