"""Valid COCO exports with things broken at random: read in bounded time and memory, and nothing but typed errors."""

import contextlib
import copy
import json
import resource
import signal
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as rle

from icmformer.errors import ConfigError
from training.finetuning.readers import label_map
from training.finetuning.readers.coco import read_coco
from training.finetuning.readers.photo_finder import PhotoFinder
from training.finetuning.readers.reading_report import ReadingReport

HEIGHT, WIDTH = 30, 40
MOST_BYTES, MOST_SECONDS = 1 << 30, 5


def valid():
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:20, 6:30] = 1
    packed = rle.encode(np.asfortranarray(mask))
    plain = [6 * HEIGHT + 4, *[16, 14] * 23, 16]
    segmentations = [
        [[1, 1, 20, 2, 15.5, 20]],
        [[1, 1, 9, 2, 5.5, 9], [20, 20, 30, 20, 30, 28, 20, 28]],
        {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()},
        {"size": [HEIGHT, WIDTH], "counts": [*plain, HEIGHT * WIDTH - sum(plain)]},
    ]
    names = ["a.png", "sub/b.png"]
    return {
        "images": [
            {"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH, "video_id": 1}
            for n, name in enumerate(names, 1)
        ],
        "annotations": [
            {
                "id": 10 * number + place,
                "image_id": number,
                "category_id": 1,
                "iscrowd": place % 2,
                "bbox": [1, 1, 5, 5],
                "attributes": {"occluded": False},
                "segmentation": segmentation,
            }
            for number in (1, 2)
            for place, segmentation in enumerate(segmentations)
        ],
        "categories": [{"id": 1, "name": "nucleus"}],
        "videos": [{"id": 1, "name": "lorry"}],
    }


def places(value, path=()):
    """The paths of all that a value holds."""
    found = [path] if path else []
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        found += places(inner, (*path, key))
    return found


PLACES = [place for place in places(valid()) if place not in (("images",), ("annotations",))]
DEEP: list = []
for _ in range(200):
    DEEP = [DEEP]
NUMBERS = [
    float("nan"),
    float("inf"),
    -float("inf"),
    1e308,
    -1e308,
    1e7,
    -9e6,
    -1,
    0,
    0.5,
    2**31,
    2**63,
    10**30,
    -(10**30),
    10**400,
]
TEXTS = [
    "",
    "1",
    "x" * 100_000,
    "\ud800",
    "a\0b",
    "../../etc/passwd",
    "/etc/passwd",
    "data:,",
    "o" * 60,
    "P",
    "b'0'",
    "b'",
    "é",
]
OTHERS = [
    None,
    True,
    [],
    {},
    [[]],
    DEEP,
    [None],
    [1, "2"],
    {"a": {}},
    [0] * 100_000,
    {"size": [WIDTH, HEIGHT], "counts": [0] * 5000},
]
BROKEN = st.sampled_from([*NUMBERS, *TEXTS, *OTHERS]) | st.integers() | st.floats() | st.text(max_size=20)
REMOVED = object()


@contextlib.contextmanager
def limits(most_bytes, seconds):
    """Ends what takes more memory than there is now and so much, or more seconds."""

    def late(*_):
        raise TimeoutError(f"over {seconds} seconds")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (used + most_bytes, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_the_limits_end_what_takes_too_much():
    with pytest.raises(MemoryError), limits(MOST_BYTES, MOST_SECONDS):
        np.zeros(2 * MOST_BYTES, np.uint8)
    with pytest.raises(TimeoutError), limits(MOST_BYTES, 0.05):
        time.sleep(MOST_SECONDS)


@pytest.fixture(scope="module")
def finder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("a.png", "sub/b.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
    return PhotoFinder(folder)


def broken_content(changes):
    content = json.loads(json.dumps(valid()))
    for place, value in changes:
        target = content
        try:
            for key in place[:-1]:
                target = target[key]
            if value is REMOVED:
                del target[place[-1]]
            else:
                target[place[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    return content


def check(finder, changes):
    """Reads and draws; good annotations of good photos come out whatever is broken beside them."""
    content, report = json.loads(json.dumps(broken_content(changes))), ReadingReport()
    before = sorted(finder.folder.rglob("*"))
    with limits(MOST_BYTES, MOST_SECONDS):
        try:
            photos = list(read_coco(content, finder, report, "x.json"))
        except ConfigError:
            return
        for photo in photos:
            assert isinstance(photo.photo.file, bytes) or finder.folder in photo.photo.file.parents
            labels, _ = label_map.draw(photo, HEIGHT, WIDTH, report)
            assert labels.shape == (HEIGHT, WIDTH)
        json.dumps(report.lines())
    assert sorted(finder.folder.rglob("*")) == before
    if written(content.get("images")) == written(valid()["images"]):
        lost = {
            row[2].split(" of ")[0]
            for row in report.rows
            if row[0] == "skipped" and row[1] != "covered by other objects"
        }
        came = {one.name for photo in photos for one in photo.annotations}
        assert names_of_whole(content["annotations"]) <= came - lost


def names_of_whole(entries):
    """The names of annotations that nothing was changed in, but for those with another one's id."""
    ids = Counter(str(entry.get("id")) for entry in entries if isinstance(entry, dict))
    return {
        f"annotation {entry['id']}"
        for entry in entries
        if written(entry) in map(written, valid()["annotations"]) and ids[str(entry["id"])] == 1
    }


def written(value):
    """As JSON: True and 1 are equal in Python."""
    return json.dumps(value)


CHANGES = st.lists(st.tuples(st.sampled_from(PLACES), BROKEN | st.just(REMOVED)), min_size=1, max_size=6)
FUZZ = {"deadline": timedelta(seconds=MOST_SECONDS), "suppress_health_check": list(HealthCheck)}


@settings(max_examples=150, derandomize=True, **FUZZ)
@given(CHANGES)
def test_broken_exports_cost_what_is_broken(finder, changes):
    check(finder, changes)


@pytest.mark.slow
@settings(max_examples=4_000, **FUZZ)
@given(CHANGES)
def test_very_many_broken_exports_cost_what_is_broken(finder, changes):
    check(finder, changes)


@settings(max_examples=150, derandomize=True, **FUZZ)
@given(
    st.recursive(
        st.none() | st.booleans() | BROKEN,
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["id", "image_id", "segmentation", "counts", "size"]), inner)
        ),
        max_leaves=15,
    )
)
def test_anything_at_all_as_a_segmentation_or_as_the_lists(finder, value):
    check(finder, [(("annotations", 0, "segmentation"), value)])
    check(finder, [(("annotations",), value)])
    check(finder, [(("images",), value)])
