"""Which photos are trained on, which choose the zoom, and which decide."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from icmformer.errors import ConfigError
from tests.training.finetuning.prepared_photos import write_photos
from training.finetuning.readers.reading_report import ReadingReport
from training.finetuning.split import PARTS, Split, assign, split


def parts_of(tmp_path, names, report=None, order=None, **options):
    made = write_photos(tmp_path / "all", names, seed=options.pop("seed", 0), groups=options.pop("groups", None))
    photos = [made[place] for place in order] if order is not None else made
    return split(photos, tmp_path / "all", tmp_path, report or ReadingReport(), **options)


def digests(folder):
    return {hashlib.sha256(np.asarray(Image.open(path)).tobytes()).hexdigest() for path in folder.iterdir()}


def test_the_parts_hold_every_photo_once_as_it_was(tmp_path):
    made = write_photos(tmp_path / "kept", [f"{n}.png" for n in range(20)])
    told = parts_of(tmp_path, [f"{n}.png" for n in range(20)], held_out=0.3, choosing=0.1)
    assert {part: told.count(part) for part in PARTS} == {"train": 12, "choosing": 2, "held_out": 6}
    assert {part: told.objects(part) for part in PARTS} == {"train": 12, "choosing": 2, "held_out": 6}
    assert not (tmp_path / "all").exists()
    for photo, placed in zip(made, told.photos, strict=True):
        assert (placed.number, placed.identity, placed.long_side) == (photo.number, photo.identity, 32)
        for kind in ("images", "masks"):
            kept = (tmp_path / "kept" / kind / f"{photo.stem}.png").read_bytes()
            assert (tmp_path / placed.part / kind / f"{photo.stem}.png").read_bytes() == kept
    assert sum(len(list((tmp_path / part / "images").iterdir())) for part in PARTS) == 20
    assert Split.from_mapping(json.loads(json.dumps(told.as_mapping()))) == told
    assert told.of_object("000007_3").identity == "6.png"


def test_a_part_depends_on_content_alone(tmp_path):
    names = [f"{n}.png" for n in range(15)]
    first = parts_of(tmp_path / "a", names, groups=["t1"] * 4 + [""] * 11)
    parts_of(tmp_path / "b", [f"z/{n}" for n in names], order=range(14, -1, -1), groups=["q"] * 4 + [""] * 11)
    again = parts_of(tmp_path / "c", names, groups=["t1"] * 4 + [""] * 11)
    for part in PARTS:
        assert digests(tmp_path / "a" / part / "images") == digests(tmp_path / "b" / part / "images")
    assert first == again
    assert first.content == again.content
    assert first.content != parts_of(tmp_path / "d", names, groups=["t1"] * 4 + [""] * 11, held_out=0.4).content


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    clips=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    held_out=st.floats(0.05, 0.6),
    choosing=st.sampled_from([0, 0.1, 0.3]),
)
def test_no_frame_and_no_copy_is_ever_on_both_sides(seed, clips, held_out, choosing, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(seed)
    names = [f"{clip}/clip_frame_{n:03}.png" for clip, size in enumerate(clips) for n in range(size)]
    pictures = [rng.integers(0, 256, (24, 32, 3), np.uint8) for _ in names]
    for place in rng.choice(len(names), 2):  # copies, under names that say nothing
        names.append(f"copy of {place} {len(names)}.png")
        pictures.append(np.clip(pictures[place].astype(int) + 2, 0, 255).astype(np.uint8))
    order = rng.permutation(len(names))
    photos = write_photos(folder / "all", [names[n] for n in order], [pictures[n] for n in order])
    told = split(photos, folder / "all", folder, ReadingReport(), held_out, choosing)
    where = {photo.identity: photo.part for photo in told.photos}
    for clip in range(len(clips)):
        assert len({part for name, part in where.items() if name.startswith(f"{clip}/")}) == 1
    for name in names[-2:]:
        assert where[name] == where[names[int(name.split()[2])]]
    assert told.count("train") > 0
    assert told.count("held_out") > 0


def assigned(sizes, held_out, choosing, seed=0):
    keys = {group: (hashlib.sha256(f"{seed} {group}".encode()).hexdigest(), []) for group in range(len(sizes))}
    parts = assign(keys, {group: [None] * size for group, size in enumerate(sizes)}, held_out, choosing)
    return {part: [sizes[group] for group in parts if parts[group] == part] for part in PARTS}


@pytest.mark.parametrize("seed", range(20))
def test_a_large_group_swallows_no_part(seed):
    one_video = assigned([90, *[1] * 30], 0.2, 0.1, seed)
    assert sum(one_video["held_out"]) == 24
    assert (one_video["choosing"], one_video["train"]) == ([1] * 6, [90])
    videos = assigned([40, 30, 35, 50, 45, 60], 0.1, 0.1, seed)
    assert (videos["held_out"], videos["choosing"]) == ([30], [35])  # none fits: the smallest
    assert len(videos["train"]) == 4
    mixed = assigned([7, 3, 5, 1, 1, 2, 4, 6, 8, 1, 2, 3, 5, 2], 0.3, 0.1, seed)
    assert 13 <= sum(mixed["held_out"]) <= 15
    assert 0 < sum(mixed["choosing"]) <= 5 < sum(mixed["choosing"]) + min(mixed["train"])
    two = assigned([5, 20], 0.2, 0.1, seed)
    assert (two["held_out"], two["choosing"], two["train"]) == ([5], [], [20])


@pytest.mark.parametrize(("sizes", "spared"), [([1] * 4, 0), ([1] * 5, 1), ([1] * 10, 1), ([1] * 40, 4)])
def test_few_photos_spare_none_to_choose_on(sizes, spared):
    assert sum(assigned(sizes, 0.2, 0.1)["choosing"]) == spared
    assert assigned(sizes, 0.2, 0)["choosing"] == []


def test_one_group_is_refused_and_says_why_and_what_to_do(tmp_path):
    names = [f"frame_{n:06}" for n in range(6)]
    with pytest.raises(ConfigError, match=r"all 6 photos belong together \(frames of one video\).*--group-by.*none"):
        parts_of(tmp_path, names)
    told = parts_of(tmp_path, names, group_by="none")
    assert told.count("held_out") == 1
    with pytest.raises(ConfigError, match="1 annotated photos are too few"):
        parts_of(tmp_path / "one", names[:1])
    report = ReadingReport()
    assert parts_of(tmp_path / "few", ["a", "b", "c"], report).count("choosing") == 0
    assert any("too few groups of photos to choose the zoom" in line for line in report.lines())
