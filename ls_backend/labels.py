"""What a labelling config says: which tool draws on which image, and in which form an answer goes back."""

from __future__ import annotations

import io
import reprlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from ls_backend.errors import RequestError

_LABELLED = {"BrushLabels": "brushlabels", "PolygonLabels": "polygonlabels"}
_PLAIN = {"Brush": "brush", "Polygon": "polygon"}
_LONGEST = 1 << 20
_MOST_IMAGES = 100
_DEEPEST = 50  # tags within tags: what is read from the text must not grow faster than the text


@dataclass(frozen=True)
class Output:
    """The control that answers are drawn with.

    Attributes:
        name: The control's name, `from_name` of a result.
        kind: `brushlabels`, `polygonlabels`, or `brush` and `polygon`, whose label is a result of its own.
        labels: Label names the control knows; for the plain kinds those of `labels_name`.
        labels_name: Name of the `Labels` control beside a plain one; None where the control has labels itself.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    labels_name: str | None = None

    @property
    def polygon(self) -> bool:
        """Whether answers are polygons rather than brush masks."""
        return self.kind.startswith("polygon")


@dataclass(frozen=True)
class ImageTag:
    """An image of the labelling page.

    Attributes:
        name: The tag's name, `to_name` of a result.
        value: Its `value` or `valueList`, `$field` for a field of the task.
        several: Whether it is a `valueList`: a click then names its image by index.
        outputs: Controls that can draw an answer on it, in the config's order.
    """

    name: str
    value: str
    several: bool
    outputs: tuple[Output, ...]

    @property
    def only_label(self) -> tuple[str, ...]:
        """The label of an answer to a click without one: the config's, where it has but one."""
        labels = {label for output in self.outputs for label in output.labels}
        return tuple(labels) if len(labels) == 1 else ()

    def output_for(self, labels: tuple[str, ...]) -> Output:
        """The control for an answer with these labels.

        Raises:
            RequestError: No brush or polygon control for this image, or none that knows the labels.
        """
        if not self.outputs:
            raise RequestError(
                f"the labelling config has no BrushLabels, PolygonLabels, Brush or Polygon for {self.name!r}: add one, "
                "so that there is something to answer with"
            )
        fitting = [output for output in self.outputs if set(labels) <= set(output.labels)]
        if not fitting:
            raise RequestError(
                f"the label {', '.join(labels)[:100]!r} is in the smart tool's labels but in none of "
                f"{some(o.name for o in self.outputs)}: give both controls the same labels"
            )
        return fitting[0]


@lru_cache(maxsize=64)
def read_config(text: str) -> Mapping[str, ImageTag]:
    """The images of a labelling config by name.

    Raises:
        RequestError: Not a labelling config, or one without an image.
    """
    if len(text) > _LONGEST or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise RequestError("the labelling config is too long, or declares entities")
    root = _tree(text)
    tags = {}
    for tag in root.iter("Image"):
        name, value = tag.get("name"), tag.get("value") or tag.get("valueList")
        if name and value:
            tags[name] = value, tag.get("value") is None
    if not tags:
        raise RequestError("the labelling config has no <Image name=... value=...>: this backend segments images")
    if len(tags) > _MOST_IMAGES:
        raise RequestError(f"the labelling config has {len(tags)} images; at most {_MOST_IMAGES} are taken")
    outputs = _outputs(root, tags)
    return {name: ImageTag(name, *facts, tuple(outputs[name])) for name, facts in tags.items()}


def some(names: Iterable[str]) -> str:
    """Names as an error may list them: on one line, and not all of very many."""
    listed = [*names]
    return ", ".join(map(reprlib.repr, listed[:8])) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")


def _tree(text: str) -> ElementTree.Element:
    root: ElementTree.Element | None = None
    depth = 0
    try:
        for event, tag in ElementTree.iterparse(io.StringIO(text), ("start", "end")):
            root = tag if root is None else root
            depth += 1 if event == "start" else -1
            if depth > _DEEPEST:
                raise RequestError(f"the labelling config has more than {_DEEPEST} tags within each other")
    except (ElementTree.ParseError, ValueError) as error:  # ValueError: half a character
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"the labelling config is not XML: {error}") from error
    assert root is not None  # no text without a tag is XML
    return root


def _outputs(root: ElementTree.Element, images: Iterable[str]) -> dict[str, list[Output]]:
    """The controls that can draw an answer, by image; each tag is looked at once, however many images there are."""
    found: dict[str, list[Output]] = {image: [] for image in images}
    labels: dict[str, tuple[tuple[str, ...], str | None]] = {}  # of the first Labels control of an image
    for tag in root.iter("Labels"):
        drawn = [image for image in drawn_on(tag) if image in found and image not in labels]
        labels |= dict.fromkeys(drawn, (label_names(tag), tag.get("name"))) if drawn else {}
    for tag in root.iter():
        name = tag.get("name")
        drawn = [image for image in drawn_on(tag) if image in found] if name else []
        if not name or not drawn:
            continue
        if tag.tag in _LABELLED:
            output = Output(name, _LABELLED[tag.tag], label_names(tag))
            for image in drawn:
                found[image].append(output)
        elif tag.tag in _PLAIN:
            for image in drawn:
                found[image].append(Output(name, _PLAIN[tag.tag], *labels.get(image, ((), None))))
    return found


def drawn_on(tag: ElementTree.Element) -> list[str]:
    """The images that a control is for."""
    return list(dict.fromkeys(name.strip() for name in tag.get("toName", "").split(",")))


def label_names(tag: ElementTree.Element) -> tuple[str, ...]:
    """The labels of a control, as answers name them."""
    return tuple(label.get("alias") or label.get("value") or "" for label in tag.iter("Label"))
