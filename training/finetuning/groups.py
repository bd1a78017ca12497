"""Groups of photos that must not be on both sides of a split, since one gives away the other."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from icmformer.errors import ConfigError

from .names import common_name, folder_of, joined_by_name
from .photos import PreparedPhoto
from .readers.reading_report import ReadingReport

UNMATCHED = "photo whose path --group-by does not match: a group of its own"
RULES = ("auto", "none", "folder")
OF_THE_TOOL, IN_FOLDER, BY_PATTERN, ALIKE = "one task or video", "one folder", "one name by --group-by", "nearly alike"

HASH_SIDE = 16
"""Side of a perceptual hash: 256 bits, of the lowest frequencies of the photo at 64 x 64 pixels."""
NEAR = 24
"""Bits in which nearly equal photos differ at most.

Re-encoded, resized, brighter or darker ones differ in up to 18 bits mostly, ones cropped by a hundredth at each side in
some 20. Of 2,900 photos of 16 sets (street scenes, cats, nuclei, roofs from above, viruses, membranes) 8 have another
one this near; in pictures of one microscope's dirty slide or of one machine part, up to a third, which are one scene.
"""
FLAT = 1.5
"""Standard deviation in gray levels under which a photo has nothing to compare but noise."""
_ROWS = 64
"""Rows of the matrix of distances that are held at a time."""

Keyed = Mapping[Hashable, Sequence[int]]


def check_rule(group_by: str) -> None:
    """Refuses a rule that is neither known nor a regular expression.

    Raises:
        ConfigError: Such a rule.
    """
    if group_by in RULES:
        return
    try:
        re.compile(group_by)
    except re.error as error:
        raise ConfigError(
            f"--group-by takes {', '.join(RULES)} or a regular expression, which {group_by!r} is not: {error}"
        ) from error


def find_groups(photos: Sequence[PreparedPhoto], folder: Path, group_by: str, report: ReadingReport) -> list[int]:
    """The group of each photo, as a number from 0; a photo that belongs to no other is a group of its own.

    Args:
        photos: Of the export.
        folder: Where `images/NUMBER.png` are.
        group_by: `auto` joins what the tool holds together (a task, a video), frames of one video and tiles of one
            image by their names; `folder` what lies in one folder of the export; a regular expression what has the
            same first group (or match, if it has no group) in the photo's path, as searched for in it. All of them also
            join photos that look nearly alike. `none` joins nothing.
        report: Is told what was joined, and why.

    Raises:
        ConfigError: See `check_rule`; an expression that no path has.
    """
    check_rule(group_by)
    pairs = [np.zeros((0, 2), np.int64)]
    for why, keyed in _rules(photos, folder, group_by, report):
        for members in keyed.values():
            if len(members) > 1:
                report.decide(f"kept together: {why}", common_name(photos, members))
                pairs.append(np.stack([np.full(len(members) - 1, members[0]), members[1:]], axis=1))
    return _components(len(photos), np.concatenate(pairs)).tolist()  # type: ignore[no-any-return]


def _rules(
    photos: Sequence[PreparedPhoto], folder: Path, group_by: str, report: ReadingReport
) -> Iterator[tuple[str, Keyed]]:
    """Why photos are joined, and which are, by a key."""
    if group_by == "none":
        return
    places = range(len(photos))
    if group_by == "auto":
        yield OF_THE_TOOL, _keyed((place, photos[place].group) for place in places)
        yield from joined_by_name(photos)
    elif group_by == "folder":
        yield IN_FOLDER, _keyed((place, folder_of(photos[place].identity)) for place in places)
    else:
        pattern = re.compile(group_by)
        found = [(place, pattern.search(photos[place].identity)) for place in places]
        for place, match in found:
            if match is None:
                report.decide(UNMATCHED, photos[place].identity)
        if not any(match for _, match in found):
            raise ConfigError(
                f"--group-by {group_by!r} is in no photo's path, such as {photos[0].identity!r}; it takes "
                f"{', '.join(RULES)} or a regular expression"
            )
        yield BY_PATTERN, _keyed((place, m[1 if pattern.groups else 0] or "") for place, m in found if m)
    numbers = near_components(_hashes(photos, folder))
    yield ALIKE, _keyed((place, str(number)) for place, number in enumerate(numbers))


def _keyed(named: Iterable[tuple[int, str]]) -> Keyed:
    """Places by name; those without one are left out."""
    keyed: dict[Hashable, list[int]] = {}
    for place, name in named:
        if name:
            keyed.setdefault(name, []).append(place)
    return keyed


def _components(count: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The connected component of each of `count` things, as a number from 0, of (N, 2) pairs that are connected."""
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _hashes(photos: Sequence[PreparedPhoto], folder: Path) -> NDArray[np.uint64]:
    hashes = [
        perceptual_hash(folder / "images" / f"{photo.stem}.png", photo.digest)
        for photo in tqdm(photos, desc="comparing", unit="photo")
    ]
    return np.stack(hashes) if hashes else np.zeros((0, HASH_SIDE**2 // 64), np.uint64)


def perceptual_hash(file: Path, digest: str) -> NDArray[np.uint64]:
    """The (4,) bits of a photo's look, near each other for photos that look alike (pHash, of ImageHash).

    A flat photo, a blank slide for example, has those of its `digest` instead: noise would make it like any other one.
    """
    with Image.open(file) as image:
        small = image.convert("L").resize((4 * HASH_SIDE, 4 * HASH_SIDE), Image.Resampling.LANCZOS)
    if np.asarray(small).std() < FLAT:
        return np.frombuffer(bytes.fromhex(digest), np.uint64)
    bits = imagehash.phash(small, HASH_SIDE).hash
    return np.packbits(bits.ravel()).view(np.uint64)


def near_components(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Photos that are joined by hashes, from one to the next, that differ in `NEAR` bits at most.

    Args:
        hashes: (N, 4) bits.

    Returns:
        (N,) the component of each, as a number from 0. Takes memory by N, and time by N squared: seconds for 20,000.
    """
    labels = np.arange(len(hashes))
    for start in range(0, len(hashes), _ROWS):
        rows, rest = hashes[start : start + _ROWS], hashes[start:]
        distances = np.zeros((len(rows), len(rest)), np.uint16)
        for word in range(hashes.shape[1]):
            distances += np.bitwise_count(rows[:, word, None] ^ rest[None, :, word])
        near = (distances <= NEAR) & (labels[start : start + _ROWS, None] != labels[None, start:])
        if near.any():
            touched = np.flatnonzero(near.any(0))
            near = near[:, touched]
            alike = np.argwhere(near.astype(np.float32) @ near.T.astype(np.float32))  # rows near one and the same photo
            pairs = np.concatenate([np.stack([near.argmax(0), touched], axis=1), alike]) + start
            labels = _components(labels.max() + 1, labels[pairs])[labels]
    return labels
