"""How a labelling config is read; what the page does with it is in tests/contract/test_label_studio.py."""

import time

import pytest

from icmformer.serving.errors import RequestError
from ls_backend.config_tree import lookup, read_page, repeated
from ls_backend.labelling_config import read_config
from ls_backend.task_image import image_url

CONTROLS = '<BrushLabels name="m{{idx}}" toName="p{{idx}}"><Label value="Cat"/></BrushLabels>'
IMAGE = '<Image name="p{{idx}}" value="$images[{{idx}}]"/>'
PAGES = f'<View><Repeater on="$images">{IMAGE}{CONTROLS}</Repeater></View>'


def names(config, **data):
    return [tag.get("name") for tag in repeated(read_page(config), data).tags() if tag.get("name")]


@pytest.mark.parametrize(
    ("path", "value", "rest"),
    [
        ("a", {"b": [{"c": 1}, "two"]}, ""),
        ("a.b[0].c", 1, ""),
        ("a[b][1]", "two", ""),
        ("a.b.1", "two", ""),
        ("a.b[1].png", "two", ".png"),
        ("a.b[2]", [{"c": 1}, "two"], "[2]"),
        ("a.b[01]", [{"c": 1}, "two"], "[01]"),
        ("dotted.name", 3, ""),
        ("nothing.b", None, "nothing.b"),
        ("[]", None, "[]"),
    ],
)
def test_a_path_leads_as_far_as_it_can(path, value, rest):
    assert lookup({"a": {"b": [{"c": 1}, "two"]}, "dotted.name": 3}, path) == (value, rest)


def test_a_number_is_put_in_once_an_attribute_and_twice_in_the_outermost():
    assert names('<Repeater on="$l"><A name="{{idx}}{{idx}}"/></Repeater>', l=[0, 0]) == ["00", "11"]
    config = '<Repeater on="$l"><View><A name="{{idx}}{{idx}}"/></View></Repeater>'
    assert names(config, l=[0, 0]) == ["0{{idx}}", "1{{idx}}"]


def test_a_repeater_within_another_may_go_by_its_number():
    config = """<Repeater on="$l" indexFlag="#"><Repeater on="$l[#].k"><A name="#-{{idx}}"/></Repeater></Repeater>"""
    assert names(config, l=[{"k": [0]}, {"k": []}, {"k": [0, 0]}]) == ["0-0", "2-0", "2-1"]


def test_what_holds_no_number_is_shared_and_not_copied():
    page = repeated(read_page(PAGES), {"images": ["a"] * 3})
    assert len({id(tag) for tag in page.tags() if tag.kind == "label"}) == 1
    assert len({id(tag) for tag in page.tags() if tag.kind == "brushlabels"}) == 3


def test_the_images_of_a_repeater_and_their_addresses():
    data = {"images": ["/a.png", "/b.png"]}
    images = read_config(PAGES, data)
    assert list(images) == ["p0", "p1"]
    assert [image_url({"data": data}, image, None) for image in images.values()] == ["/a.png", "/b.png"]
    assert [image.outputs[0].name for image in images.values()] == ["m0", "m1"]
    (first,) = read_config(PAGES).values()  # without a task, as the page is opened: the first is fetched ahead
    assert image_url({"data": data}, first, None) == "/a.png"


def test_labels_from_the_task_come_beside_those_of_the_config():
    config = '<View><Image name="i" value="$i"/><BrushLabels name="m" toName="i" value="$l">{}</BrushLabels></View>'
    data = {"l": [{"value": "Dog", "alias": "d"}, {"value": "Cat"}, "Text", {"value": 7}]}
    (output,) = read_config(config.format('<Label value="Own"/>'), data)["i"].outputs
    assert (output.labels, output.open) == ({"Own", "d", "Cat"}, False)
    (output,) = read_config(config.format(""))["i"].outputs
    assert (output.labels, output.open) == (frozenset(), True)
    assert read_config(config.format(""), {"l": [{"value": "Cat"}]})["i"].only_label == ("Cat",)


def test_a_value_list_wins_over_a_value_as_on_the_page():
    image = read_config('<View><Image name="i" value="$a" valueList="$b"/></View>')["i"]
    assert (image.value, image.several) == ("$b", True)


def test_a_long_document_takes_little_time_a_click():
    labels = "".join(f'<Label value="L{n}"/>' for n in range(100))
    config = PAGES.replace('<Label value="Cat"/>', labels)
    data = {"images": ["a"] * 500}
    read_config(config, data)
    started = time.process_time()
    assert len(read_config(config, data)) == 500
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("count", [1001, 10**6])
def test_a_repeater_without_end_is_refused(count):
    with pytest.raises(RequestError, match=f"{count} entries"):
        read_config(PAGES, {"images": ["a"] * count})
