"""Exports of Label Studio with things broken at random: each costs itself, in no time and little memory."""

import base64
import contextlib
import io
import json
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from icmformer.errors import IcmformerError
from tests.training.finetuning.label_studio_exports import packed
from training.finetuning.readers import label_map
from training.finetuning.readers.label_studio import read_label_studio
from training.finetuning.readers.photo_finder import PhotoFinder
from training.finetuning.readers.reading_report import ReadingReport

SIZE = (20, 30)
MOST_SECONDS, MOST_BYTES = 5, 50_000_000
CONFIG = """<View><Image name="image" value="$image"/><Image name="pages" valueList="$pages"/>
<Brush name="m" toName="image"/></View>"""


def png():
    content = io.BytesIO()
    Image.fromarray(np.full((*SIZE, 4), 255, np.uint8)).save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def valid():
    """An export with everything that is read."""
    mask = np.zeros(SIZE, bool)
    mask[3:9, 4:20] = True
    values = [
        {"format": "rle", "rle": packed(mask), "brushlabels": ["x"]},
        {"points": [[1, 1], [50, 2], [40, 60]], "closed": True, "polygonlabels": ["x"]},
        {"x": 50, "y": 50, "radiusX": 20, "radiusY": 10, "rotation": 30, "ellipselabels": ["x"]},
        {"imageDataURL": png(), "bitmasklabels": ["x"]},
        {"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": ["x"]},
    ]
    sized = {"original_height": SIZE[0], "original_width": SIZE[1], "image_rotation": 0, "from_name": "m"}
    result = [{"id": f"r{i}", "to_name": "image", **sized, "value": value} for i, value in enumerate(values)]
    result.append({"id": "p", "to_name": "pages", "item_index": 1, **sized, "value": values[0]})
    annotation = {"id": 1, "result": result, "updated_at": "2024-01-01T00:00:00Z", "completed_by": {"id": 1}}
    pages = ["b.png", "s3://shelf/c.png"]
    data = {"image": "/data/upload/1/0a1b2c3d-a.png", "pages": pages, "text": "abc", "in": {"x": 1}}
    empty = {"id": 2, "result": []}
    task = {"id": 1, "data": data, "annotations": [annotation, empty], "predictions": [5]}
    flat = [{**value, **sized} for value in values]
    facts = {"id": 2, "annotation_id": 3, "annotator": 1, "created_at": "2024-01-01T00:00:00Z", "updated_at": "x"}
    storage = {"id": 5, "result": result, "task": {"id": 5, "data": data}}
    return [task, {"image": "a.png", **facts, "m": flat}, storage, {"data": "b.png", "completions": [annotation]}]


TEXTS = ["", "x", "a" * 100_000, "\ud800", "\0", "../../a.png", "/", "data:image/png;base64,AAAA", "data:image/png"]
TEXTS += [
    "http://[",
    "?d=",
    "a.png",
    "9" * 5000,
    "/data/upload/" * 1000,
    "$a" * 500,
    "0" * 64,
    "2024-13-01",
    "%",
    "%ff",
]
TEXTS += ["?fileuri=%%%", "/data/local-files/?d=", "ab.png?" + "&a=b" * 999]
NUMBERS = [None, True, False, 0, -1, 1, 10**30, -(10**30), 2**31, 1e308, -1e308, 1e-320, 0.5]
NUMBERS += [float("nan"), float("inf"), float("-inf")]
LISTS = [[], {}, [[]], [None], [255] * 50, {"x": {"y": []}}, [[0, 0]] * 3000, [0, 0, 0, 9], {"rle": [1]}]
LISTS += [{"points": [[1, 1]] * 3}]
INNER = st.none() | st.integers() | st.floats() | st.text(max_size=9)
BAD = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from(NUMBERS),
    st.sampled_from(LISTS),
    st.recursive(INNER, lambda inner: st.lists(inner, max_size=4), max_leaves=8),
    st.builds(lambda depth: nested(depth), st.integers(1, 300)),
    st.lists(st.integers(0, 255), max_size=60),
)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def unshared(value):
    """A copy in which nothing is in it twice, as in JSON: `deepcopy` keeps a list that occurs 3,000 times one list."""
    if isinstance(value, dict):
        return {key: unshared(inner) for key, inner in value.items()}
    return [unshared(inner) for inner in value] if isinstance(value, list) else value


def places(value):
    """Everything that can be replaced: containers with a key each."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            yield from places(inner)


def break_one(draw, content):
    """Breaks something in a list or dict."""
    spots = [spot for spot in places(content) if not (isinstance(spot[1], int) and len(spot[0]) > 20)]
    if not spots:
        return
    holder, key = spots[draw(st.integers(0, len(spots) - 1))]
    what = draw(st.sampled_from(["replace", "delete", "twice", "nest"]))
    if what == "replace":
        holder[key] = unshared(draw(BAD))  # later breaks may fall into it
    elif what == "delete":
        del holder[key]
    elif what == "nest":
        holder[key] = [holder[key]]
    elif isinstance(holder, list):
        holder.append(unshared(holder[key]))
    else:
        holder[draw(st.sampled_from(["rle", "points", "radiusX", "data", "id", "result", "x"]))] = unshared(holder[key])


@st.composite
def broken(draw):
    content = json.loads(json.dumps(valid()))  # nothing is in it twice
    for _ in range(draw(st.integers(1, 4))):
        break_one(draw, content)
    return content


@st.composite
def broken_regions(draw):
    """A task of which some regions are broken, each within itself, and the names of those that are not."""
    task = json.loads(json.dumps(valid()[0]))
    result, kept = [], set()
    for region in task["annotations"][0]["result"]:
        part = [region]
        if draw(st.booleans()):
            for _ in range(draw(st.integers(1, 3))):
                break_one(draw, part)
        else:
            kept.add(f"region {region['id']}")
        result += part
    task["annotations"][0]["result"] = result
    return [task], kept


@pytest.fixture(scope="module")
def finder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)).save(folder / name)
    return PhotoFinder(folder)


def read(content, finder, **options):
    """All masks of an export, drawn at the size of the files, as the caller does."""
    report = ReadingReport()
    photos = list(read_label_studio(content, finder, report, "x.json", **options))
    objects = 0
    for photo in photos:
        labels, seen = label_map.draw(photo, *SIZE, report)
        assert labels.shape == SIZE
        objects += len(seen)
    json.dumps(report.rows)
    return objects


def test_the_valid_export_is_read_whole(finder):
    report = ReadingReport()
    photos = list(read_label_studio(valid(), finder, report, "x.json", config=CONFIG))
    assert [len(photo.annotations) for photo in photos] == [4, 1, 4, 4, 1]
    assert all(shape.draw(*SIZE).any() for p in photos for a in p.annotations for shape in a.shapes)


def masks(content, names, finder, config):
    """The masks of regions of these names, by the photo's file and the name."""
    photos = list(read_label_studio(content, finder, ReadingReport(), "x.json", config=config))
    shapes = {(p.photo.file, one.name): one.shapes[0] for p in photos for one in p.annotations if one.name in names}
    return {key: shape.draw(*SIZE).tolist() for key, shape in shapes.items()}


def check_the_good(finder, task, kept, config):
    """What is whole comes out as if nothing else were there."""
    expected = masks([valid()[0]], kept, finder, config)
    assert len(expected) == len(kept - {"region r4"})  # a rectangle outlines nothing
    found = masks(task, kept, finder, config)
    assert {key: found.get(key) for key in expected} == expected


def check(content, finder, config):
    files = contents(finder.folder)
    tracemalloc.reset_peak()
    before, start = tracemalloc.get_traced_memory()[0], time.process_time()
    with contextlib.suppress(IcmformerError):
        read(content, finder, config=config)
    assert time.process_time() - start < MOST_SECONDS
    assert tracemalloc.get_traced_memory()[1] - before < MOST_BYTES
    assert contents(finder.folder) == files


def contents(folder):
    """Everything in a folder and beside it, with its bytes."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.parent.rglob("*"))}


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
OPTIONS = {"deadline": MOST_SECONDS * 1000, "suppress_health_check": QUIET, "database": None}
CONFIGS = st.sampled_from([None, CONFIG])


@settings(max_examples=60, derandomize=True, **OPTIONS)
@given(content=broken(), config=CONFIGS)
def test_broken_exports(finder, traced, content, config):
    check(content, finder, config)


@pytest.mark.slow
@settings(max_examples=1500, **OPTIONS)
@given(content=broken(), config=CONFIGS)
def test_many_broken_exports(finder, traced, content, config):
    check(content, finder, config)


@settings(max_examples=40, derandomize=True, **OPTIONS)
@given(regions=broken_regions(), config=CONFIGS)
def test_good_regions_survive_broken_ones(finder, regions, config):
    check_the_good(finder, *regions, config)


@pytest.mark.slow
@settings(max_examples=1500, **OPTIONS)
@given(regions=broken_regions(), config=CONFIGS)
def test_good_regions_survive_many_broken_ones(finder, regions, config):
    check_the_good(finder, *regions, config)


@settings(max_examples=60, derandomize=True, **OPTIONS)
@given(value=BAD, data=st.dictionaries(st.text(max_size=5), BAD, max_size=3), config=st.text(max_size=300) | CONFIGS)
def test_anything_at_all(finder, traced, value, data, config):
    task = {"data": data, "annotations": [{"result": [{"value": value}]}]}
    for content in (value, [value], [task], {"result": value}):
        check(content, finder, config)
