"""Labelling configs beyond reason, alone and together with a task that makes much of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.hostile.corpus import BACKEND, BAD, FINE, HARMLESS, Entry, backend_body, coded, inline
from tests.hostile.pictures import saved
from tests.hostile.studio import REFUSED
from tests.ls_backend.conftest import BRUSH, body, click


def written() -> Iterator[Entry]:
    """Configs that are beyond reason as they are."""
    laughs = "<!DOCTYPE x [<!ENTITY a 'ha'>" + "".join(
        f"<!ENTITY {b} '{f'&{a};' * 10}'>" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    )
    named = '<Image name="image" value="$image"/>'
    nested = '<BrushLabels name="brush" toName="image">'
    labels = '<Label value="Cat"/>' * 20_000
    for name, config, right in (
        ("nothing", "", BAD),
        ("blank", " ", BAD),
        ("no XML", "View: Image", BAD),
        ("JSON", "{}", BAD),
        ("cut", BRUSH[:100], BAD),
        ("a billion laughs", f"{laughs}]><View>&j;</View>", BAD),
        ("quadratic blow-up", f"<!DOCTYPE x [<!ENTITY a '{'a' * 50_000}'>]><View>{'&a;' * 5000}</View>", BAD),
        ("an outer entity", '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><View>&a;</View>', BAD),
        ("an outer DTD", '<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x.dtd"><View/>', BAD),
        ("an entity by parameter", '<!DOCTYPE x [<!ENTITY % a SYSTEM "http://127.0.0.1:1/x"> %a;]><View/>', BAD),
        ("an entity undeclared", f"<View>{named}&nothing;</View>", BAD),
        ("an entity after a small doctype", '<!doctype x [<!entity a "b">]><View/>', BAD),
        (
            "an include",
            f'<View xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="/etc/passwd"/>{named}</View>',
            BAD,
        ),
        ("a stylesheet", f'<?xml-stylesheet href="file:///etc/passwd"?>{BRUSH}', FINE),
        ("a declared coding", f'<?xml version="1.0" encoding="utf-7"?>{BRUSH}', FINE),
        ("10 MB", f"<View>{' ' * (5 << 20)}{named}</View>", BAD),
        ("100,000 deep", "<a>" * 100_000 + "</a>" * 100_000, BAD),
        ("100,000 deep and open", "<a>" * 100_000, BAD),
        (
            "10,000 images",
            "<View>" + "".join(f'<Image name="i{n}" value="$i"/>' for n in range(10_000)) + "</View>",
            BAD,
        ),
        ("labels within labels", f"<View>{named}{nested * 3000}{labels}{'</BrushLabels>' * 3000}</View>", BAD),
        ("20,000 labels", f"<View>{named}{nested}{labels}</BrushLabels></View>", FINE),
        (
            "a control for 30,000 images",
            BRUSH.replace('"brush" toName="image"', f'"brush" toName="{"image," * 30_000}"'),
            FINE,
        ),
        ("a value of 20,000 fields", BRUSH.replace("$image", "/$name" * 20_000), BAD),
        ("a value of a field 30 times", BRUSH.replace("$image", "/$long" * 30), BAD),
        ("a value of no field", BRUSH.replace("$image", "$nothing"), BAD),
        ("a value of a field of fields", BRUSH.replace("$image", "x$deep"), BAD),
        ("a value of Python's own", BRUSH.replace("$image", "$__class__.__init__"), BAD),
        ("a value of format signs", BRUSH.replace("$image", "{0.__class__}%s%n$"), REFUSED),
        ("a value of dots", BRUSH.replace("$image", "$image" + ".a" * 5000), BAD | {413}),
        ("no image", BRUSH.replace("<Image", "<Video"), BAD),
        ("no control to answer with", f"<View>{named}</View>", BAD),
        ("tags unknown", "<View><Magic name='a' toName='b'/><Spell/></View>", BAD),
        ("names of line breaks", BRUSH.replace('"image" value', '"a&#10;ERROR forged&#13;b" value'), BAD),
        ("names of a megabyte", BRUSH.replace('"image" value', f'"{"n" * 900_000}" value'), BAD),
        ("a zero byte", BRUSH.replace("Cat", "\0"), BAD),
        ("an unpaired surrogate", BRUSH.replace("Cat", "\ud800"), BAD),
        ("a number that is no character", BRUSH.replace("Cat", "&#0;"), BAD),
        ("50,000 attributes", "<View " + " ".join(f'a{n}="x"' for n in range(50_000)) + f">{named}</View>", BAD),
    ):
        request = backend_body(label_config=config)
        if "$long" in config or "$name" in config or "$deep" in config:
            request["tasks"][0]["data"] |= {"long": "x" * 100_000, "name": "x", "deep": [[[{"a": [1]}]]] * 50}
        yield Entry(f"config: {name}", BACKEND, right, coded(request))


Case = tuple[str, str, str, dict[str, Any], frozenset[int]]
"""A name, a config, the image that is clicked on, fields of the task, and the right answers."""


def filled() -> Iterator[Entry]:
    """Configs that are made large, or led astray, by the task's data."""
    photo = inline(saved("PNG"))
    for name, config, image, fields, right in (*_repeaters(photo), *_labels(), *_places(photo)):
        item = click(30, 40, size=(96, 64), to_name=image)
        yield Entry(f"filled: {name}", BACKEND, right, coded(body(item, image=photo, config=config, **fields)))


def _pages(more: str = "", on: str = "$images", flag: str = "", image: str = "") -> str:
    """A Repeater around an image, with more attributes for it, and its controls."""
    inside = BRUSH.removeprefix("<View>").removesuffix("</View>").replace("<Image", f"<Image {image}")
    for name in ("image", "kp", "brush"):
        inside = inside.replace(f'"{name}"', f'"{name}_{{{{idx}}}}"')
    inside = inside.replace('"$image"', '"$images[{{idx}}]"')
    return f'<View><Repeater on="{on}" {flag}>{inside}{more}</Repeater></View>'


def _nested(depth: int) -> str:
    inside = BRUSH.replace("$image", "$images[0]")
    return '<Repeater on="$images">' * depth + inside + "</Repeater>" * depth


def _repeaters(photo: str) -> Iterator[Case]:
    many, long = ["x"] * 1_000_000, "x" * 400_000
    first, plain = "image_0", "image"
    one, two, most = {"images": [photo]}, {"images": [photo] * 2}, {"images": [photo] * 900}
    yield "a Repeater", _pages(), first, one, FINE
    yield "a Repeater of a million entries", _pages(), first, {"images": many}, BAD
    yield "a Repeater of 2,000 entries", _pages(), first, {"images": [photo] + ["x"] * 1999}, BAD
    yield "a Repeater of a million letters", _pages(), first, {"images": "x" * 1_000_000}, BAD
    yield "a Repeater of a path of lists", _pages(on="$images" + "[0]" * 5000), first, one, BAD
    yield "a Repeater of a length", _pages(), first, {"images": {"length": 10**9}}, BAD
    yield "a Repeater of nothing", _pages(), first, {}, BAD
    yield "a Repeater of a number", _pages(), first, {"images": 10**9}, BAD
    yield "a Repeater without tags", "<Repeater on='$images'/>", first, {"images": many}, BAD
    yield "a Repeater's entry that is not there", _pages(), "image_7", one, BAD
    yield "a Repeater's entry of a forged number", _pages(), "image_0\nERROR", one, BAD
    yield "Repeaters within Repeaters", _nested(40), plain, two, BAD
    yield "Repeaters of 1,000 entries within Repeaters", _nested(3), plain, {"images": [photo] * 1000}, BAD
    yield "Repeaters of one entry within Repeaters", _nested(40), plain, one, FINE
    yield "a Repeater without a flag", _pages(flag='indexFlag=""'), first, one, HARMLESS
    yield "a Repeater of a long flag", _pages(flag=f'indexFlag="{long}"'), first, most, BAD
    yield "a Repeater of a long attribute", _pages(image=f'a="{long}{{{{idx}}}}"'), first, most, BAD
    yield "a Repeater beside a long attribute", _pages(image=f'a="{long}"'), first, most, HARMLESS
    yield "a Repeater of 20,000 labels", _pages("<Label/>" * 20_000), first, most, BAD

    yield "a Repeater of a control for 900 images", _for_many(900), plain, {"images": ["x"] * 1000}, BAD


def _for_many(images: int) -> str:
    """A page of many images, and a Repeater whose control draws on all of them."""
    names = [f"i{n}" for n in range(images)]
    tags = "".join(f'<Image name="{name}" value="$image"/>' for name in names)
    control = f'<Brush name="b_{{{{idx}}}}" toName="{",".join(names)}"/>'
    return BRUSH.replace("</View>", f'{tags}<Repeater on="$images">{control}</Repeater></View>')


def _by_task(count: int, own: str = "") -> str:
    """Controls whose labels come from the task, beside some of their own."""
    control = '<BrushLabels name="b{}" toName="image" value="$labels">{}</BrushLabels>'
    head = BRUSH.partition("<BrushLabels")[0]
    return head + "".join(control.format(n, own) for n in range(count)) + "</View>"


def _labels() -> Iterator[Case]:
    cat = [{"value": "Cat"}]
    numbers = [{"value": str(n)} for n in range(9_999)]
    for name, config, labels, right in (
        ("labels of the task", _by_task(1), cat, FINE),
        ("100,000 labels of the task", _by_task(1), cat * 100_000, BAD),
        ("labels of the task in 8,000 controls", _by_task(8000), [*numbers, *cat], FINE),
        ("labels of both in 8,000 controls", _by_task(8000, "<Label value='a'/>"), numbers, BAD),
        ("labels of the task that are none", _by_task(1), [1, None, [], {"value": []}], BAD),
        ("labels of the task as text", _by_task(1), "Cat", BAD),
        ("labels of the task as a table", _by_task(1), {"value": "Cat"}, BAD),
        ("labels of the task 90 deep", _by_task(1), _deep(90), BAD),
    ):
        yield name, config, "image", {"labels": labels}, right


def _places(photo: str) -> Iterator[Case]:
    far = f"[{10**30}]"
    for step in ("[-1]", "[1]", far, "[1e0]", "[\u0660]", "[0", "[]", "[[0]]", ".length", "[__class__]", ".0x0"):
        name = f"a place {step}".encode("unicode_escape").decode()
        yield name, BRUSH.replace("$image", "$images" + step), "image", {"images": [photo]}, BAD


def _deep(levels: int) -> list[Any]:
    labels: list[Any] = [{"value": "Cat"}]
    for _ in range(levels):
        labels = [{"value": "x", "children": labels}]
    return labels
