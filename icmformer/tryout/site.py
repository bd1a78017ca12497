"""What the page asks for: photos, and the masks of what was clicked on. No HTTP here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import numpy as np

from icmformer import __version__
from icmformer.images.masks import mask_png
from icmformer.inference.engine import Engine
from icmformer.serving.description import description, facts
from icmformer.serving.errors import RequestError
from icmformer.serving.version_tags import model_name
from icmformer.tryout.photos import MOST_FILE, Part, Photos, picture
from icmformer.types import Box, Click, MaskResult

MOST_CLICKS = 200
"""On one object: each is a pass of the network."""
JSON, JPEG, PNG = "application/json", "image/jpeg", "image/png"


@dataclass(frozen=True)
class Content:
    """What a request is answered with.

    Attributes:
        kind: Its media type.
        body: Bytes.
    """

    kind: str
    body: bytes


@dataclass(frozen=True)
class Prompt:
    """What was said about one object.

    Attributes:
        clicks: In the order in which they were made.
        box: The last one drawn.
        max_points: Most points of the polygons asked for.
    """

    clicks: tuple[Click, ...]
    box: Box | None
    max_points: int | None


class Site:
    """Answers the page's requests with one engine. Safe to call from several threads.

    A reply depends on its request alone: the page holds clicks, and sends all those of an object each time.

    Args:
        engine: Ready to segment.
        photos: To click on.
        weights: Their name as it was asked for, for the command that the page copies.
    """

    def __init__(self, engine: Engine, photos: Photos, weights: str) -> None:
        self._engine, self._photos = engine, photos
        self._about = {
            "version": __version__,
            "name": engine.weights.name,
            "weights": weights,
            "profile": engine.profile.name,
            "model": model_name(engine.weights.name, engine.weights.sha256, engine.profile.name),
            "device": str(engine.device),
            "arithmetic": engine.arithmetic,
            "most_clicks": MOST_CLICKS,
            "most_bytes": MOST_FILE,
        }

    def state(self) -> Content:
        """What serves, and the names of all photos."""
        return _as_json({**self._about, "photos": self._photos.names})

    def photo(self, number: int) -> Content:
        """A photo's name and size."""
        height, width = self._photos.image(number).pixels.shape[:2]
        return _as_json({"number": number, "name": self._photos.name(number), "width": width, "height": height})

    def view(self, number: int, query: str) -> Content:
        """A photo as it is shown, or the part of it that the query names by left, top, width and height."""
        return Content(JPEG, picture(self._photos.image(number).pixels, read_part(query)))

    def add(self, query: str, body: bytes) -> Content:
        """Takes a file dropped on the page; the query has its name."""
        return self.photo(self._photos.add(_only(query, "name"), body))

    def mask(self, number: int, body: bytes) -> Content:
        """The mask of an object as its runs (row, first column, column after the last one), and its facts."""
        result = self._segment(number, read_prompt(body))
        runs = np.stack((result.runs.rows, result.runs.starts, result.runs.stops), axis=1)
        return _as_json({**facts(result), "runs": runs.ravel().tolist()})

    def mask_file(self, number: int, body: bytes) -> Content:
        """The file that `icmformer segment -o` writes."""
        return Content(PNG, mask_png(self._segment(number, read_prompt(body)).mask))

    def polygons(self, number: int, body: bytes) -> Content:
        """What `icmformer segment --json` prints."""
        prompt = read_prompt(body)
        return _as_json(description(self._segment(number, prompt), prompt.max_points))

    def _segment(self, number: int, prompt: Prompt) -> MaskResult:
        return self._engine.segment(self._photos.image(number), prompt.clicks, prompt.box)


def read_prompt(body: bytes) -> Prompt:
    """Reads clicks, a box and a budget of points.

    Raises:
        RequestError: Anything else.
        PromptError: Coordinates that cannot be a click or a box.
    """
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError("the request is not JSON that can be read") from error
    if not isinstance(said, dict):
        raise RequestError("the request is a JSON object with clicks and box")
    clicks, box, most = said.get("clicks", []), said.get("box"), said.get("max_points")
    if not isinstance(clicks, list) or not all(isinstance(click, dict) for click in clicks):
        raise RequestError("clicks are a list of objects with x, y and positive")
    if len(clicks) > MOST_CLICKS:
        raise RequestError(f"{len(clicks)} clicks on one object; the limit is {MOST_CLICKS}")
    if box is not None and not (isinstance(box, list) and len(box) == 4):
        raise RequestError("a box is a list of four numbers: x1, y1, x2, y2")
    if most is not None and (type(most) is not int or most < 4):
        raise RequestError("max_points is a whole number, 4 or more")
    made = tuple(Click(_number(c.get("x")), _number(c.get("y")), c.get("positive", True)) for c in clicks)
    return Prompt(made, None if box is None else Box(*map(_number, box)), most)


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise RequestError(f"a coordinate is a number, got {value!r:.40}")
    return value  # type: ignore[no-any-return]


def read_part(query: str) -> Part | None:
    """Reads which part of a photo is to be shown; None for all of it.

    Raises:
        RequestError: Not all of left, top, width and height, or not whole numbers.
    """
    if not query:
        return None
    values = [_only(query, name) for name in ("left", "top", "width", "height")]
    if not all(re.fullmatch(r"\d{1,9}", value, re.ASCII) for value in values):
        raise RequestError("left, top, width and height are whole numbers")
    return Part(*map(int, values))


def _only(query: str, name: str) -> str:
    """The one value that a query has under a name; empty where there is none."""
    try:
        found = parse_qs(query, max_num_fields=10, errors="replace").get(name, [""])
    except ValueError as error:
        raise RequestError("the address has too many fields") from error
    return found[0]


def _as_json(value: Any) -> Content:
    return Content(JSON, json.dumps(value).encode())
