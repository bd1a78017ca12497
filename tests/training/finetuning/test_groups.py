"""Which photos must not be on both sides of a split."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.cluster.hierarchy import fcluster, linkage
from skimage import data

from icmformer.errors import ConfigError
from tests.training.finetuning.prepared_photos import write_photos
from training.data.shards import open_shard
from training.finetuning.groups import NEAR, UNMATCHED, find_groups, near_components, perceptual_hash
from training.finetuning.readers.reading_report import ReadingReport


def grouped(folder, names, group_by="auto", **made):
    """The names that belong together, those of lone photos left out, and the report."""
    report = ReadingReport()
    groups = find_groups(write_photos(folder, names, **made), folder, group_by, report)
    together = [{n for n, g in zip(names, groups, strict=True) if g == group} for group in set(groups)]
    return sorted((names for names in together if len(names) > 1), key=sorted), report


GRID = [f"map_{row}_{column}.png" for row in range(3) for column in range(3)]
OFFSETS = [f"slide_{y}_{x}.png" for y in (512, 1024) for x in (2048, 2560, 3072)]


SAHI = [f"img_{x}_{y}_{x + 512}_{y + 512}.png" for x, y in ((0, 0), (410, 0), (410, 410))]
DOTA = ["P0001__1__0___824.png", "P0001__1__824___0.png", "P0001__0.5__0___0.png"]


@pytest.mark.parametrize(
    "together",
    [
        ["frame_000000", "frame_000017", "frame_000018.PNG"],
        ["a/clip_frame_000123.jpg", "a/clip_frame_7.jpg"],
        ["a\\b\\Clip-Frame12.jpg", "a\\b\\Clip-Frame13.jpg"],
        ["0a1b2c3d-frame_000001.png", "ffffffff-frame_000002.png"],  # as Label Studio stores uploads
        ["x/lorry.mp4-0012.jpg", "x/lorry.mp4-0100.jpg"],
        ["lorry_mp4-0012_jpg.rf.0123456789abcdef.jpg", "lorry_mp4-0013_jpg.rf.fedcba9876543210.jpg"],
        ["train/p_jpg.rf.0123456789abcdef.jpg", "valid/p_jpg.rf.fedcba9876543210.jpg"],
        ["city_x12_y3.tif", "city_x13_y3.tif"],
        ["r1_c2.png", "r7_c9.png"],
        ["scan_row2_col10.png", "scan_row3_col1.png"],
        ["slide7_tile_14.png", "slide7_tile_15.png"],
        ["slide7-patch-1-2.png", "slide7-patch-1-3.png"],
        GRID,
        OFFSETS,
        SAHI,
        ["img_0_0_32_24.png", "img_300_0_332_24.png"],
        DOTA,
        ["im__0__512.png", "im__0__1024.png"],
        ["im__512__0.png", "im__1024__3072.png", "im__4096__512.png"],
        [f"map__{row}__{column}.png" for row in range(2) for column in range(3)],
        ["train/frame_1.jpg", "val/frame_2.jpg"],
        ["a/Train/frame_1.jpg", "a/Validation/frame_2.jpg", "a/TEST/frame_3.jpg"],
        ["images/training/a_x1_y2.png", "testing/images/a_x1_y3.png", "valid\\images\\a_x2_y3.png"],
        [f"{part}/{name}" for part, name in zip(("train", "val", "test") * 3, GRID, strict=True)],
    ],
)
def test_frames_of_a_video_and_tiles_of_an_image_belong_together(together, tmp_path):
    found, report = grouped(tmp_path, [*together, "other/frame_000000", "z/other_tile_1.png", "IMG_1.jpg"])
    assert found == [set(together)]
    assert sum(report.counts("decided").values()) == 1


@pytest.mark.parametrize(
    "names",
    [
        [f"IMG_2024_{n:04}.jpg" for n in range(9)],
        [f"IMG_{year}_{n:04}.jpg" for year in (2023, 2024) for n in range(1, 5)],
        ["IMG_20240512_101502.jpg", "IMG_20240512_101507.jpg", "IMG_20240513_090000.jpg", "IMG_20240514_120000.jpg"],
        ["a/frame_1.png", "b/frame_1.png"],
        ["train/a/frame_1.png", "val/b/frame_1.png"],
        ["training_1/frame_1.png", "training_2/frame_1.png"],
        ["wireframe1.png", "wireframe2.png"],
        ["a_clip_1.png", "a_clip_2.png"],
        ["textile1.png", "textile2.png"],
        ["video1_0001.jpg", "video1_0002.jpg", "scan_z01.png", "scan_z02.png", "a_flip.png", "a.png"],
        ["x1.png", "x2.png"],
        ["cam_01_02_23_59.png", "cam_01_30_19_50.png"],  # boxes, by chance, of several sizes
        ["cam_2024_05_12_30.png", "cam_2024_05_12_59.png"],
        ["plate_1_2_3_4.png", "plate_5_6_7_8.png"],
        ["day__1__7.png", "day__2__30.png"],
        ["sample_1_3.png", "sample_2_9.png", "sample_3_1.png", "sample_7_12.png", "sample_4_4.png"],  # a sparse "grid"
    ],
)
def test_names_that_merely_count_do_not_join(names, tmp_path):
    assert grouped(tmp_path, names)[0] == []


def test_a_grid_of_each_part_is_one_although_their_names_are_the_same(tmp_path):
    names = [f"{part}/{name}" for part in ("train", "val") for name in GRID]
    assert grouped(tmp_path, names)[0] == [set(names)]  # they may be of one image: better together than apart
    assert grouped(tmp_path, [*GRID, GRID[0]])[0] == []


def test_a_grid_is_of_equal_sizes(tmp_path):
    sizes = [(24, 32)] * 8 + [(24, 30)]
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    assert grouped(tmp_path, GRID, pictures=pictures)[0] == []


def test_what_the_tool_holds_together_stays_so(tmp_path):
    names = ["a.png", "b.png", "c.png", "d.png"]
    found, report = grouped(tmp_path, names, groups=["task 1", "task 2", "task 1", ""])
    assert found == [{"a.png", "c.png"}]
    assert "one task or video" in report.lines()[0]


def test_rules_of_a_team_replace_those_of_names(tmp_path):
    names = ["p1/frame_1.png", "p1/frame_2.png", "p2/a-day3.png", "p3/b-day3.png", "p2/c-day4.png"]
    assert grouped(tmp_path, names, "none")[0] == []
    assert grouped(tmp_path, names, "folder")[0] == [set(names[:2]), {names[2], names[4]}]
    assert grouped(tmp_path, names, r"-(day\d)")[0] == [set(names[2:4])]
    assert grouped(tmp_path, names, r"day\d")[0] == [set(names[2:4])]
    assert grouped(tmp_path, names, r"day\d|frame")[0] == [set(names[:2]), set(names[2:4])]
    with pytest.raises(ConfigError, match=r"--group-by takes auto, none, folder or a regular expression.*\("):
        grouped(tmp_path, names, "(")


def test_vague_names_need_a_rule_as_the_guide_says(tmp_path):
    guide = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    stacks = ["d/video1_0001.jpg", "d/video1_0002.jpg", "scan_z01.png", "scan_z02.png", "vid_t001.png", "vid_t002.png"]
    patients = [f"patient_{n}_{k}.png" for n in (1, 2) for k in (1, 2)]
    for rule, names in ((r"^(.+)_[zt]?\d+\.", stacks), (r"(patient_\d+)", patients)):
        assert f"--group-by '{rule}'" in guide
        pairs = sorted(({one, other} for one, other in zip(names[::2], names[1::2], strict=True)), key=sorted)
        assert grouped(tmp_path, names, rule)[0] == pairs
    assert grouped(tmp_path, patients)[0] == [set(patients)]


def encoded(image, quality):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")


def cropped(image, share):
    x, y = round(share * image.width), round(share * image.height)
    return image.crop((x, y, image.width - x, image.height - y))


CHANGES = {
    "jpeg": lambda image: encoded(image, 50),
    "half": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.85),
    "gray": lambda image: image.convert("L").convert("RGB"),
    "cropped": lambda image: cropped(image, 0.005),
}
PHOTOS = ("astronaut", "camera", "cat", "coffee", "coins", "rocket", "retina", "immunohistochemistry", "page", "moon")


def photo_of(name):
    image = Image.fromarray(getattr(data, name)()).convert("RGB")
    image.thumbnail((400, 400))
    return image


@pytest.mark.parametrize("change", CHANGES)
def test_near_copies_belong_together_and_other_photos_do_not(change, tmp_path):
    originals = [photo_of(name) for name in PHOTOS]
    pictures = [np.asarray(image) for image in (*originals, *map(CHANGES[change], originals))]
    names = [f"{kind}{name}.png" for kind in ("", "copy-of-") for name in PHOTOS]
    found, report = grouped(tmp_path, names, ".+", pictures=pictures)
    assert found == sorted(({name + ".png", f"copy-of-{name}.png"} for name in PHOTOS), key=sorted)
    assert report.counts("decided") == {"kept together: nearly alike": len(PHOTOS)}
    assert grouped(tmp_path, names, "none", pictures=pictures)[0] == []


def test_blank_photos_do_not_become_one_group(tmp_path):
    rng = np.random.default_rng(0)
    blank = [(rng.normal(200, 1, (96, 96, 3)) + 0.5).astype(np.uint8) for _ in range(30)]
    assert grouped(tmp_path, [f"{n}.png" for n in range(30)], pictures=blank)[0] == []
    twice = [np.full((96, 96, 3), gray, np.uint8) for gray in (7, 9, 7)]
    assert grouped(tmp_path, ["a", "b", "c"], pictures=twice)[0] == [{"a", "c"}]


@pytest.mark.parametrize(("shard", "name"), [("000", "dsb2018"), ("000", "solar"), ("004", "virus_em")])
def test_photos_of_one_microscope_or_town_are_told_apart(shard, name, shared, tmp_path):
    archive = open_shard(shared / "data" / "train" / f"train-{shard}.zip", include_held_out=True)
    places = [place for place, record in enumerate(archive.records) if record.set == name][:40]
    pictures = [archive.load(place)[0] for place in places]
    found, _ = grouped(tmp_path, [f"{n}.png" for n in range(len(pictures))], pictures=pictures)
    assert len(pictures) >= 20
    assert found == []


def packed_bits(bits):
    return np.packbits(bits, axis=1).view(np.uint64)


def test_near_photos_are_those_of_single_linkage():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (300, 256), np.uint8)
    for n in range(100):  # in and just beyond reach, in blocks near and far
        bits[199 - n] = bits[n]
        bits[199 - n, rng.choice(256, NEAR + n % 2, replace=False)] ^= 1
    for n, place in enumerate(rng.permutation(np.arange(201, 300))):  # a chain whose ends are far from each other
        bits[place] = bits[200]
        bits[place, : 2 * n] ^= 1
    found = near_components(packed_bits(bits))
    expected = fcluster(linkage(bits, "single", "hamming"), (NEAR + 0.5) / 256, "distance")
    assert len(set(found)) == len(set(expected)) == len(set(zip(found, expected, strict=True))) == 151
    assert set(found) == set(range(151))
    assert near_components(packed_bits(bits[:1])).tolist() == [0]
    assert near_components(np.zeros((0, 4), np.uint64)).tolist() == []


@pytest.mark.parametrize("count", [1500, 6000])
def test_memory_goes_with_the_number_of_photos_although_all_are_alike(count):
    rng = np.random.default_rng(0)
    bits = np.repeat(rng.integers(0, 2, (1, 256), np.uint8), count, 0)
    bits[np.arange(count), rng.integers(0, 256, count)] ^= 1
    hashes = packed_bits(bits)
    tracemalloc.start()
    try:
        found = near_components(hashes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not found.any()
    assert peak < 1500 * count + 1_000_000  # all pairs take 12,000 a photo for 1,500 photos, 48,000 for 6,000


def test_the_hash_is_that_of_the_library(tmp_path):
    import imagehash

    photo_of("cat").save(tmp_path / "cat.png")
    bits = np.unpackbits(perceptual_hash(tmp_path / "cat.png", "").view(np.uint8))
    np.testing.assert_array_equal(bits, imagehash.phash(photo_of("cat"), 16).hash.ravel())


def test_an_expression_that_matches_nothing_is_refused_and_photos_it_misses_are_told(tmp_path):
    photos = write_photos(tmp_path, ["patient1/a.png", "patient1/b.png", "other/c.png"])
    with pytest.raises(ConfigError, match=r"is in no photo's path, such as 'patient1/a\.png'"):
        find_groups(photos, tmp_path, r"patent(\d+)", ReadingReport())
    report = ReadingReport()
    find_groups(photos, tmp_path, r"patient(\d+)", report)
    assert [name for _, kind, name, _ in report.rows if kind == UNMATCHED] == ["other/c.png"]
