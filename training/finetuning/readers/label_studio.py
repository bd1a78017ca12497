"""Label Studio's JSON: brush masks and polygons."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from icmformer.types import BoolMask
from training.finetuning.readers.annotated_image import AnnotatedImage, AnnotationError, ImageFinder
from training.finetuning.readers.label_map import label_map, polygon_mask

_UPLOADED = re.compile(r"^[0-9a-f]{8}-(.+)$")


def is_label_studio(content: Any) -> bool:
    """Whether JSON has the form of Label Studio's export of that name."""
    return isinstance(content, list) and bool(content) and all(isinstance(t, dict) and "data" in t for t in content)


def read_label_studio(tasks: Sequence[Mapping[str, Any]], finder: ImageFinder) -> Iterator[AnnotatedImage]:
    """The images of tasks that have masks; of a task's annotations the last one that was not cancelled counts.

    Raises:
        AnnotationError: A region that cannot be read, or an image that is not there.
    """
    for number, task in enumerate(tasks):
        kept = [a for a in task.get("annotations", []) if not a.get("was_cancelled")]
        results = kept[-1].get("result", []) if kept else []
        regions = [r for r in results if _is_mask(r)]
        skipped = Counter(str(r.get("type")) for r in results if _is_shape(r) and not _is_mask(r))
        if not regions and not skipped:
            continue
        names = [str(value) for value in _values(task.get("data", {}))]
        file = next((f for f in (_find(n, finder) for n in names) if f is not None), None)
        if file is None:
            raise AnnotationError(
                f"the photo of task {task.get('id', number)} is not in {finder.folder} "
                f"({', '.join(names)[:200]}); name the folder of the photos with --images"
            )
        sized = next(r for r in results if _is_shape(r))
        height, width = int(sized["original_height"]), int(sized["original_width"])
        objects: dict[str, BoolMask] = {}
        for place, region in enumerate(regions):  # with unified labels each region comes twice under one id
            key = str(region.get("id") or f"#{place}")
            if key not in objects:
                try:
                    objects[key] = _mask(region["value"], height, width)
                except AnnotationError as error:
                    raise AnnotationError(f"region {key} of task {task.get('id', number)}: {error}") from error
        labels = label_map(objects.values(), height, width, by_size=False)
        yield AnnotatedImage(file.stem, file, labels, skipped)


def _is_shape(region: Mapping[str, Any]) -> bool:
    return isinstance(region.get("value"), Mapping) and "original_height" in region


def _is_mask(region: Mapping[str, Any]) -> bool:
    return _is_shape(region) and ("rle" in region["value"] or "points" in region["value"])


def _values(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for value in data.values():
            yield from _values(value)


def _find(address: str, finder: ImageFinder) -> Path | None:
    parts = urlsplit(address)
    path = unquote(parse_qs(parts.query)["d"][0] if parts.query.startswith("d=") else parts.path)
    found = finder.find(path.lstrip("/"))
    if found is None and (match := _UPLOADED.match(Path(path).name)):  # an upload's name has a prefix
        found = finder.find(match[1])
    return found


def _mask(value: Mapping[str, Any], height: int, width: int) -> BoolMask:
    try:
        if "rle" in value:
            pixels = decode_rle(value["rle"])
            return pixels.reshape(height, width, 4)[..., 3] > 127
        points = np.asarray(value["points"], np.float64) * [width / 100, height / 100]
        return polygon_mask(points.ravel(), height, width)
    except (TypeError, ValueError, IndexError) as error:
        raise AnnotationError(f"a region cannot be read: {error}") from error


def decode_rle(data: Sequence[int]) -> NDArray[np.uint8]:
    """Unpacks Label Studio's brush encoding (thi.ng's rle-pack): bytes in, values out.

    The stream: the number of values (32 bits), the word size less one (5), four run-length sizes less one (4 each);
    then runs: a flag (1: one value repeated, 0: that many values), the index of a size (2), the length less one in
    that many bits, the value or values.

    Raises:
        ValueError: The stream ends early.
    """
    bits = np.unpackbits(np.asarray(data, np.uint8))
    text = bits.tobytes().translate(bytes([48, 49]) + bytes(254))  # as the characters 0 and 1: int() reads those fast
    place = 0

    def take(count: int) -> int:
        nonlocal place
        if place + count > len(text):
            raise ValueError("the run lengths end early")
        number = int(text[place : place + count], 2)
        place += count
        return number

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint8)
    filled = 0
    while filled < total:
        repeated = take(1)
        length = take(sizes[take(2)]) + 1
        if filled + length > total:
            raise ValueError("the run lengths hold more than they say")
        if repeated:
            values[filled : filled + length] = take(word)
        else:
            values[filled : filled + length] = [take(word) for _ in range(length)]
        filled += length
    return values
