"""What a labelling config says: which tool draws on which image, and in which form an answer goes back."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from ls_backend.errors import RequestError

_LABELLED = {"BrushLabels": "brushlabels", "PolygonLabels": "polygonlabels"}
_PLAIN = {"Brush": "brush", "Polygon": "polygon"}
_LONGEST = 1 << 20


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
                f"{', '.join(o.name for o in self.outputs)}: give both controls the same labels"
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
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:  # ValueError: half a character
        raise RequestError(f"the labelling config is not XML: {error}") from error
    images = {}
    for tag in root.iter("Image"):
        name, value = tag.get("name"), tag.get("value") or tag.get("valueList")
        if name and value:
            images[name] = ImageTag(name, value, tag.get("value") is None, tuple(_outputs(root, name)))
    if not images:
        raise RequestError("the labelling config has no <Image name=... value=...>: this backend segments images")
    return images


def _outputs(root: ElementTree.Element, image: str) -> list[Output]:
    labels = next((t for t in root.iter("Labels") if _draws_on(t, image)), None)
    found = []
    for tag in root.iter():
        name = tag.get("name")
        if not name or not _draws_on(tag, image):
            continue
        if tag.tag in _LABELLED:
            found.append(Output(name, _LABELLED[tag.tag], _label_names(tag)))
        elif tag.tag in _PLAIN:
            names = () if labels is None else _label_names(labels)
            found.append(Output(name, _PLAIN[tag.tag], names, None if labels is None else labels.get("name")))
    return found


def _draws_on(tag: ElementTree.Element, image: str) -> bool:
    return image in [name.strip() for name in tag.get("toName", "").split(",")]


def _label_names(tag: ElementTree.Element) -> tuple[str, ...]:
    return tuple(label.get("alias") or label.get("value") or "" for label in tag.iter("Label"))
