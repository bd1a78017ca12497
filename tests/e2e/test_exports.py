"""What a real Label Studio exports is read back: photos by tag and index, masks as they were put in."""

import json
import subprocess

import numpy as np
import pytest
from PIL import Image
from skimage import draw

from tests.e2e.conftest import STUDIO_BIN
from training.finetuning.readers.label_studio import is_label_studio, read_label_studio
from training.finetuning.readers.photo_finder import PhotoFinder
from training.finetuning.readers.reading_report import ReadingReport

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
NAMED = "first page (1) zoé.png"  # Label Studio changes such names
SIZES = {"left.png": (80, 120), "right.png": (80, 120), NAMED: (60, 90), "second.png": (60, 90), "only.png": (50, 70)}
LABEL = '<Label value="Cell"/>'


def control(kind, name, image):
    return f'<{kind}Labels name="{name}" toName="{image}">{LABEL}</{kind}Labels>'


PAGES = {
    "two images": '<View><Image name="img-1" value="$first"/><Image name="img-2" value="$second"/>'
    + "".join(control("Brush", f"brush{n}", f"img-{n}") + control("Ellipse", f"round{n}", f"img-{n}") for n in (1, 2))
    + "</View>",
    "list": f'<View><Image name="image" valueList="$pages"/>{control("Brush", "mask", "image")}</View>',
    "one": '<View><Image name="image" value="$image"/>'
    + "".join(control(kind, kind.lower(), "image") for kind in ("Brush", "Polygon", "Ellipse", "Rectangle"))
    + "</View>",
}


@pytest.fixture(scope="module")
def masks():
    """What is put in, drawn by scikit-image."""
    rng = np.random.default_rng(3)
    ragged = rng.random((80, 120)) < 0.3
    ragged[40:] = False
    ring = np.zeros((60, 90), bool)
    ring[10:50, 20:70] = True
    ring[20:30, 30:40] = False
    dot = np.zeros((60, 90), bool)
    dot[3:9, 80:88] = True
    small = np.zeros((50, 70), bool)
    small[2:12, 3:20] = True
    return {"ragged": ragged, "ring": ring, "dot": dot, "small": small}


@pytest.fixture(scope="module")
def encoded(masks, tmp_path_factory):
    """The masks as Label Studio's own encoder has them, from its own environment."""
    folder = tmp_path_factory.mktemp("rle")
    np.savez(folder / "in.npz", **masks)
    code = (
        "import json, numpy as np; from label_studio_sdk.converter.brush import mask2rle; "
        "print(json.dumps({k: mask2rle(v.astype(np.uint8) * 255) for k, v in np.load('in.npz').items()}))"
    )
    ran = subprocess.run([str(STUDIO_BIN / "python"), "-c", code], check=True, cwd=folder, capture_output=True)
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name, size in SIZES.items():
        pixels = np.random.default_rng(len(name)).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def uploaded(studio, folder):
    """Addresses of the photos in Label Studio, by name."""
    config = '<View><Image name="image" value="$image"/></View>'
    project = studio.api("POST", "/api/projects", {"title": "e2e uploads", "label_config": config})["id"]
    files = {name: (folder / name).read_bytes() for name in SIZES}
    studio.api("POST", f"/api/projects/{project}/import", files=files)
    listed = [t["data"]["image"] for t in studio.api("GET", f"/api/tasks?project={project}&page_size=100")["tasks"]]
    assert len(listed) == len(SIZES)
    return {name: next(a for a in listed if a.split("-", 1)[1][:4] == name[:4]) for name in SIZES}


def region(number, kind, control_name, image, size, value, **more):
    sizes = {"original_height": size[0], "original_width": size[1], "image_rotation": 0}
    about = {"id": f"region-{number:05}", "type": kind, "from_name": control_name, "to_name": image, "origin": "manual"}
    return {**about, **sizes, "value": value, **more}


def brush(rle):
    return {"format": "rle", "rle": rle, "brushlabels": ["Cell"]}


def project(studio, page, data, *annotations):
    made = studio.api("POST", "/api/projects", {"title": f"e2e export {page}", "label_config": PAGES[page]})["id"]
    studio.api("POST", f"/api/projects/{made}/import", [data])
    task = studio.api("GET", f"/api/tasks?project={made}")["tasks"][0]["id"]
    numbers = [studio.api("POST", f"/api/tasks/{task}/annotations/", annotation)["id"] for annotation in annotations]
    return made, task, numbers


def exported(studio, made, form):
    content = studio.api("GET", f"/api/projects/{made}/export?exportType={form}")
    return json.loads(content) if isinstance(content, bytes) else content


def read(content, folder, **options):
    assert is_label_studio(content)
    report = ReadingReport()
    photos = {
        p.photo.file.name: p for p in read_label_studio(content, PhotoFinder(folder), report, "x.json", **options)
    }
    drawn = {}
    for name, photo in photos.items():
        assert photo.photo.size == SIZES[name]
        drawn[name] = [annotation.shapes[0].draw(*SIZES[name]) for annotation in photo.annotations]
        assert {annotation.label for annotation in photo.annotations} == {"Cell"}
    return photos, drawn, report


def ellipse(size, x, y, rx, ry, degrees):
    """scikit-image's: in pixels, turned against the clock."""
    height, width = size
    middle, radii = (y * height / 100 - 0.5, x * width / 100 - 0.5), (ry * height / 100, rx * width / 100)
    mask = np.zeros(size, bool)
    mask[draw.ellipse(*middle, *radii, size, rotation=-np.deg2rad(degrees))] = True
    return mask


@pytest.mark.parametrize("form", ["JSON", "JSON_MIN"])
def test_two_images_on_a_page(studio, uploaded, folder, masks, encoded, form):
    round_value = {"x": 40, "y": 60, "radiusX": 20, "radiusY": 15, "rotation": 25, "ellipselabels": ["Cell"]}
    size = SIZES["left.png"]
    result = [
        region(1, "brushlabels", "brush2", "img-2", size, brush(encoded["ragged"])),
        region(2, "ellipselabels", "round1", "img-1", size, round_value),
    ]
    data = {"first": uploaded["left.png"], "second": uploaded["right.png"]}
    made, task, _ = project(studio, "two images", data, {"result": result})
    photos, drawn, report = read(exported(studio, made, form), folder, config=PAGES["two images"])
    np.testing.assert_array_equal(drawn["right.png"][0], masks["ragged"])
    assert (drawn["left.png"][0] != ellipse(size, 40, 60, 20, 15, 25)).sum() <= 2
    assert {photo.photo.group for photo in photos.values()} == {f"task {task}"}
    assert not report.rows
    untold = read(exported(studio, made, form), folder)[2]  # the names are no keys, and both have one size
    assert untold.counts("skipped") == {"which photo is meant is not told": {"JSON": 2, "JSON_MIN": 1}[form]}


def test_a_list_of_images(studio, uploaded, folder, masks, encoded):
    size = SIZES["second.png"]
    result = [
        region(1, "brushlabels", "mask", "image", size, brush(encoded["ring"]), item_index=1),
        region(2, "brushlabels", "mask", "image", size, brush(encoded["dot"]), item_index=0),
    ]
    data = {"pages": [uploaded[NAMED], uploaded["second.png"]]}
    made, _, _ = project(studio, "list", data, {"result": result})
    for options in ({}, {"config": PAGES["list"]}):
        _, drawn, report = read(exported(studio, made, "JSON"), folder, **options)
        np.testing.assert_array_equal(drawn["second.png"][0], masks["ring"])
        np.testing.assert_array_equal(drawn[NAMED][0], masks["dot"])
        assert not report.rows
    _, drawn, report = read(exported(studio, made, "JSON_MIN"), folder, config=PAGES["list"])  # has no index
    assert drawn == {}
    assert report.counts("skipped") == {"which photo is meant is not told": 1}


def test_ground_truth_beside_others_and_cancelled(studio, uploaded, folder, masks, encoded):
    size = SIZES["only.png"]
    ring = [[20, 30], [80, 35], [60, 90]]
    box = {"x": 1, "y": 2, "width": 9, "height": 8, "rotation": 30, "rectanglelabels": ["Cell"]}
    values = {
        "Brush": brush(encoded["small"]),
        "Polygon": {"points": ring, "closed": True, "polygonlabels": ["Cell"]},
        "Ellipse": {"x": 70, "y": 20, "radiusX": 10, "radiusY": 12, "rotation": 0, "ellipselabels": ["Cell"]},
        "Rectangle": box,
    }
    result = [
        region(place, f"{kind.lower()}labels", kind.lower(), "image", size, value)
        for place, (kind, value) in enumerate(values.items())
    ]
    other = [region(5, "brushlabels", "brush", "image", size, brush(encoded["small"]))]
    made, _, numbers = project(
        studio,
        "one",
        {"image": uploaded["only.png"], "note": "only"},
        {"result": result, "ground_truth": True},
        {"result": other},
        {"result": other, "was_cancelled": True},
    )
    content = exported(studio, made, "JSON")
    photos, drawn, report = read(content, folder)
    photo = photos["only.png"]
    assert photo.ground_truth
    assert photo.updated.startswith("20")
    assert photo.annotations[0].source == "manual"
    brushed, polygon, round_one = drawn["only.png"]
    np.testing.assert_array_equal(brushed, masks["small"])
    expected = draw.polygon2mask(size, np.array(ring)[:, ::-1] / 100 * size - 0.5)
    assert (polygon != expected).sum() <= 1
    assert (round_one != ellipse(size, 70, 20, 10, 12, 0)).sum() <= 2
    assert report.counts("skipped") == {"cancelled annotation": 1, "rectangle": 1}
    assert [name.split()[1] for what, _, name, _ in report.rows if what == "decided"] == [str(numbers[1])]
