"""Labelling configs beyond the plain ones at a real Label Studio 1.23.2: what it refuses, what its page shows.

What the page sends where it shows one is recorded in tests/contract/label_studio. Of the rest nothing can be clicked:

- Its server refuses: a `toname` in small letters, a control of a Repeater's image outside the Repeater, `value` and the
  name of an image in another case, `Labels` without a `toName`, a task without the list that labels come from.
- Its page stays empty: smart tools and brushes without a `toName`, labels from the task with `children` or with a
  number as value, a Repeater whose names hold no number.
- It says what is wrong: `<image>` in small letters, a name that holds the number twice.
- It asks for a config: where all controls lack a `toName`, or have it as `TONAME`.
"""

import numpy as np
import pytest

from demo.photos import sample_photos
from demo.studio import StackError
from icmformer import LoadedImage
from tests.e2e.annotator import Annotator, clicks_of
from tests.ls_backend.conftest import picture

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
FILES = {"coffee.jpg": sample_photos()["coffee.jpg"], "cat.png": picture("chelsea")}
LABEL = '<Label value="Object"/>'
IMAGE = '<Image name="image" value="$image"/>'
CLICK = f'<KeyPointLabels name="click" toName="image" smart="true">{LABEL}</KeyPointLabels>'
MASK = f'<BrushLabels name="mask" toName="image">{LABEL}</BrushLabels>'
PLAIN = f"<View>{IMAGE}{CLICK}{MASK}</View>"
BY_TASK = f"<View>{IMAGE}{CLICK.replace(LABEL, '')}{MASK.replace(LABEL, '')}</View>".replace(
    'toName="image"', 'toName="image" value="$labels"'
)
REPEATED = f"""<View><Repeater on="$images">{IMAGE}{CLICK}{MASK}</Repeater></View>""".replace(
    '$image"', '$images[{{idx}}].url"'
)
for name in ("image", "click", "mask"):
    REPEATED = REPEATED.replace(f'"{name}"', f'"{name}_{{{{idx}}}}"')


def made(studio, title, config, data):
    project = studio.api("POST", "/api/projects", {"title": f"e2e {title}", "label_config": config})["id"]
    studio.api("POST", f"/api/projects/{project}/import", [data])
    about = {"url": studio.backend_url, "project": project, "title": "icmformer", "is_interactive": True}
    studio.api("POST", "/api/ml", about)
    return project


@pytest.fixture(scope="module")
def uploaded(studio):
    """Addresses of photos that Label Studio holds, by name."""
    project = studio.project("e2e photos", PLAIN, FILES)
    listed = [t["data"]["image"] for t in studio.api("GET", f"/api/tasks?project={project}")["tasks"]]
    return {name: next(a for a in listed if a.endswith(name)) for name in FILES}


@pytest.mark.parametrize(
    ("config", "data", "said"),
    [
        (PLAIN.replace("toName", "toname"), {}, "non-unique names"),
        (PLAIN.replace('value="$image"', 'Value="$image"'), {}, "'value' is a required property"),
        (PLAIN.replace("<Image name", "<Image Name"), {}, "'name' is a required property"),
        (f'<View>{IMAGE}<Labels name="l">{LABEL}</Labels></View>', {}, "'toName' is a required property"),
        (
            REPEATED.replace("</Repeater></View>", f"</Repeater>{CLICK}</View>").replace('"image"', '"image_0"'),
            {},
            "not found",
        ),
        (BY_TASK, {"image": "/a.png"}, "key is expected in task data"),
        (BY_TASK, {"image": "/a.png", "labels": {"value": "Cat"}}, "expects the following types"),
        (PLAIN.replace("$image", "$a.b"), {"a.b": "/a.png"}, "key is expected in task data"),
    ],
)
def test_the_server_refuses(studio, config, data, said):
    with pytest.raises(StackError) as refused:
        made(studio, "refused", config, data)
    assert said in str(refused.value).replace("\\", "")


@pytest.mark.parametrize(
    ("config", "more", "said"),
    [
        (PLAIN.replace('"mask" toName="image"', '"mask"'), {}, None),
        (PLAIN.replace('"click" toName="image"', '"click"'), {}, None),
        (BY_TASK, {"labels": [{"value": "Cat", "children": [{"value": "Tabby"}]}]}, None),
        (PLAIN.replace("<Image", "<image"), {}, "can only control Image"),
        (PLAIN.replace(' toName="image"', ""), {}, "set up labeling configuration"),
    ],
)
def test_the_page_shows_nothing_to_click_on(studio, page, uploaded, config, more, said):
    project = made(studio, "unseen", config, {"image": uploaded["cat.png"], **more})
    task = studio.api("GET", f"/api/tasks?project={project}")["tasks"][0]["id"]
    address = f"{studio.url}/projects/{project}/data?task={task}"
    if said:
        page.goto(address)
        page.get_by_text(said).first.wait_for(timeout=20_000)
    else:
        with page.expect_event("pageerror", timeout=20_000):
            page.goto(address)
        page.wait_for_timeout(300)
    assert page.locator("canvas").count() == 0


def test_each_image_of_a_repeater_gets_its_own_mask(studio, page, uploaded, engine, decode):
    data = {"images": [{"url": uploaded["coffee.jpg"]}, {"url": uploaded["cat.png"]}]}
    annotator = Annotator(page, studio, made(studio, "repeater", REPEATED, data), place=1)
    expected = {}
    for place, photo in ((1, FILES["cat.png"]), (0, FILES["coffee.jpg"])):
        annotator.turn_to(place)
        annotator.click(0.45, 0.55)
        annotator.picture(f"repeater-{place}")
        assert {item["to_name"] for item in annotator.sent} == {f"image_{place}"}
        image = LoadedImage.from_bytes(photo)
        expected[f"image_{place}"] = engine.segment(image, clicks_of(annotator.sent, image)).mask
        annotator.accept()
    stored = [region for region in annotator.submit()["result"] if "rle" in region["value"]]
    assert sorted((r["from_name"], r["to_name"], *r["value"]["brushlabels"]) for r in stored) == [
        ("mask_0", "image_0", "Object"),
        ("mask_1", "image_1", "Object"),
    ]
    for region in stored:
        mask = expected[region["to_name"]]
        assert mask.any()
        np.testing.assert_array_equal(decode(region["value"]["rle"], *mask.shape[::-1]), mask)


def test_a_label_from_the_task_is_kept_with_the_mask(studio, page, uploaded, engine, decode):
    data = {"image": uploaded["coffee.jpg"], "labels": [{"value": "Cup", "alias": "c"}, {"value": "Table"}]}
    annotator = Annotator(page, studio, made(studio, "labels", BY_TASK, data))
    annotator.click(0.45, 0.55)
    image = LoadedImage.from_bytes(FILES["coffee.jpg"])
    expected = engine.segment(image, clicks_of(annotator.sent, image)).mask
    (region,) = [r for r in annotator.accept_and_submit()["result"] if "rle" in r["value"]]
    assert region["value"]["brushlabels"] == ["c"]
    np.testing.assert_array_equal(decode(region["value"]["rle"], 600, 400), expected)
