"""What Label Studio's page sends for a click, and what it keeps of the answer; the recordings are files of their own.

Each was made with a real Label Studio 1.23.2 and its page in Chromium: a project with the config, a task, a click (or
two, or a rectangle) on a photo, the suggestion accepted and submitted. `request` is the body of `/predict`, with the
host of the photos left out; `kept` are the regions of the annotation that Label Studio then held.

What was seen there of configs beyond the plain ones:

- `<Repeater>`: names, `toName`, values and labels have the entry's number in place of the flag (`indexFlag`, else
  `{{idx}}`), in the first place of each attribute. The request holds the config as written and the task as it is. With
  `mode="pagination"`, and for a Repeater within another, the same. Its list may be at a path (`on="$doc.images"`).
- Labels from the task (`value="$labels"`): an entry's `alias`, else its `value`, as with `<Label>`; they come beside
  the labels of the config. Entries that are texts become labels without a name, which a click does not send. An entry
  with `children`, or a number as its value, ends in an empty page.
- A list in `value`: the page shows the first entry and sends no `item_index`; of a `valueList` it always sends it.
- `$a[0].b` is followed wherever a field may stand, also within a longer text. `$name.jpg` is a path, too: the page then
  finds nothing.
- Control tags, `<Label>` and `<Repeater>` may be written in any case, so may most attributes. The text within a
  `<Label>` is its value.

What Label Studio refuses, or its page does not show, is in tests/e2e/test_labelling_configs.py.
"""

import json
import time

import numpy as np
import pytest
from skimage import data

from icmformer import Box, Click, LoadedImage
from tests.conftest import ROOT
from tests.ls_backend import conftest
from tests.ls_backend.test_rle import decode

# The fixtures, here too.
studio, make_images, make_backend = conftest.studio, conftest.make_images, conftest.make_backend
make_client, client = conftest.make_client, conftest.client
RECORDINGS = sorted((ROOT / "tests" / "contract" / "label_studio").glob("*.json"))
PHOTOS = {(451, 300): data.chelsea, (600, 400): data.coffee}


def recording(path, studio):
    return json.loads(path.read_text().replace("@STUDIO@", studio.url))


def prompt_of(items):
    """The clicks and the rectangle of a request, in pixels."""
    clicks, box = [], None
    for item in {item["id"]: item for item in items}.values():
        value, width, height = item["value"], item["original_width"] / 100, item["original_height"] / 100
        if "height" in value:
            right, bottom = value["x"] + value["width"], value["y"] + value["height"]
            box = Box(value["x"] * width, value["y"] * height, right * width, bottom * height)
        else:
            clicks.append(Click(value["x"] * width, value["y"] * height, item["is_positive"]))
    return clicks, box


def test_the_three_plain_configs_are_there_and_each_kind_beyond_them():
    names = {path.stem.split("_", 1)[1] for path in RECORDINGS}
    assert names >= {"brush", "unified", "polygon", "box", "repeater", "labels_from_task", "path", "small_letters"}


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda p: p.stem)
def test_the_answer_to_a_click_is_what_the_page_kept(client, studio, fast, path):
    case = recording(path, studio)
    items = case["request"]["params"]["context"]["result"]
    reply = client.post("/predict", json=case["request"])
    assert reply.status_code == 200, reply.text
    regions = reply.json["results"][0]["result"]
    told = []
    for region in regions:
        facts = {name: region.get(name) for name in ("type", "from_name", "to_name", "item_index")}
        facts["labels"] = region["value"].get(region["type"])
        told += [] if facts in told else [facts]
    assert sorted(told, key=str) == sorted(case["kept"], key=str)
    assert {region["to_name"] for region in regions} == {items[-1]["to_name"]}
    size = items[-1]["original_width"], items[-1]["original_height"]
    assert {(region["original_width"], region["original_height"]) for region in regions} == {size}
    if "rle" in regions[0]["value"]:
        mask = decode(regions[0]["value"]["rle"]).reshape(size[1], size[0], 4)[..., 0] > 0
        expected = fast.segment(LoadedImage.from_array(PHOTOS[size]()), *prompt_of(items)).mask
        assert expected.any()
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda p: p.stem)
def test_opening_the_page_fetches_a_photo_ahead(client, studio, path):
    case = recording(path, studio)
    case["request"]["params"]["context"] = None
    reply = client.post("/predict", json=case["request"])
    assert (reply.status_code, reply.json) == (200, {"results": []})
    deadline = time.monotonic() + 10
    while not studio.asked and time.monotonic() < deadline:
        time.sleep(0.02)
    assert {address for address, _ in studio.asked} <= {"/data/upload/1/cat.png", "/data/upload/1/cup.png"}
    assert studio.asked
