"""From a request to its outcome, with a codec of the tests' own around a real engine."""

import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from icmformer import Box, Click, LoadedImage
from icmformer.errors import ConfigError, ImageError, ImageTooLargeError, PromptError
from icmformer.serving.click_log import ClickLog, read
from icmformer.serving.core import ServingCore, SourceImage
from icmformer.serving.errors import (
    BusyError,
    FetchError,
    NotReadyError,
    RefusedHostError,
    RequestError,
    SupersededError,
    TooLargeError,
    UnusableImageError,
)
from icmformer.serving.queue import RequestQueue
from icmformer.serving.requests import Summary


@dataclass(frozen=True)
class Asked:
    clicks: tuple
    box: Box | None = None
    group: str = "an object"

    empty = property(lambda self: not self.clicks and self.box is None)

    def prompt(self, height, width):
        return self.clicks, self.box

    def summary(self):
        positive = sum(c.positive for c in self.clicks)
        boxes = int(self.box is not None)
        return Summary(positive, len(self.clicks) - positive, boxes, self.group, {"task": 7}, {"region": "r1"})


@dataclass
class Plain:
    """Bodies are requests, or errors to raise; replies are the masks themselves."""

    pixels: np.ndarray
    tool: str = "test"
    ordered: bool = True
    image_stage: str = "fetch"
    clean_up: None = None
    waiting: list = field(default_factory=list)

    def parse(self, body):
        if isinstance(body, Exception):
            raise body
        return body

    def image(self, request, turn):
        if self.waiting:
            self.waiting.pop()(turn)
        return SourceImage(LoadedImage.from_array(self.pixels), kept=False)

    def model_name(self, engine):
        return engine.weights.name

    def encode(self, request, result, model):
        return result.mask

    def no_mask(self):
        return "no mask"


@pytest.fixture
def core(fast, photo, tmp_path):
    return ServingCore(fast, Plain(photo), RequestQueue(1, 4, 5.0), ClickLog(tmp_path / "clicks.jsonl"))


@pytest.mark.parametrize("ordered", [True, False])
def test_a_mask_is_the_engines_and_the_outcome_says_what_it_took(core, fast, photo, ordered, tmp_path):
    core.codec.ordered = ordered
    clicks = (Click(170.5, 120.5), Click(20.5, 20.5, False), Click(230, 180))
    outcome = core.respond(Asked(clicks), "id 1")
    expected = fast.segment(photo, clicks, ordered=ordered)
    np.testing.assert_array_equal(outcome.reply, expected.mask)
    assert (outcome.kind, outcome.status, outcome.error) == ("mask", 200, "")
    assert outcome.size == (300, 451)
    assert (outcome.request.positive, outcome.request.negative, outcome.request.boxes) == (2, 1, 0)
    assert outcome.score == pytest.approx(expected.score, abs=5e-4)
    assert [stage for stage in outcome.timings if "." not in stage] == ["parse", "fetch", "wait", "segment", "encode"]
    (line,) = read([tmp_path / "clicks.jsonl"])
    facts = {name: line[name] for name in ("event", "tool", "request", "result", "positive", "negative", "region")}
    assert list(facts.values()) == ["click", "test", "id 1", "mask", 2, 1, "r1"]
    assert outcome.log_line()["task"] == 7


@pytest.mark.parametrize("body", [None, Asked(())])
def test_what_asks_for_nothing_reaches_neither_image_nor_click_log(core, body, tmp_path):
    core.codec.waiting = [lambda turn: pytest.fail("the image was looked at")]
    outcome = core.respond(body)
    assert (outcome.kind, outcome.reply, outcome.status) == ("nothing clicked", "no mask", 200)
    assert not [*read([tmp_path / "clicks.jsonl"])]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RequestError("x"), 400, "bad request"),
        (PromptError("x"), 400, "bad prompt"),
        (RefusedHostError("x"), 403, "refused address"),
        (TooLargeError("x"), 413, "too large"),
        (ImageTooLargeError("x"), 413, "too large"),
        (ImageError("x"), 422, "unusable image"),
        (UnusableImageError("x"), 422, "unusable image"),
        (FetchError("x"), 502, "image not fetched"),
        (BusyError("x"), 503, "busy"),
        (NotReadyError("x"), 503, "not ready"),
    ],
)
def test_each_error_has_its_status_and_word(core, error, status, kind):
    outcome = core.respond(error)
    assert (outcome.status, outcome.kind, outcome.error, outcome.reply) == (status, kind, "x", None)
    assert outcome.fault is None


@pytest.mark.parametrize("fault", [ZeroDivisionError("a secret path"), ConfigError("a secret path")])
def test_a_fault_of_our_own_is_for_the_log_alone(core, fault):
    outcome = core.respond(fault)
    assert (outcome.status, outcome.kind, outcome.fault) == (500, "internal error", fault)
    assert "secret" not in outcome.error


def test_what_was_read_before_an_error_is_told(core):
    outcome = core.respond(Asked((Click(1, 1), Click(9999, 5))))
    assert (outcome.status, outcome.kind, outcome.request.positive) == (400, "bad prompt", 2)
    assert "outside the image" in outcome.error
    assert outcome.log_line().items() >= {"kind": "bad prompt", "width": 451, "image_kept": False}.items()
    assert "positive" not in core.respond(RequestError("x")).log_line()


def test_a_newer_request_of_the_object_supersedes_one_that_still_waits(core):
    outcomes = {}

    def work(name):
        outcomes[name] = core.respond(Asked((Click(170.5, 120.5),)))

    with core.queue.enter():
        older = threading.Thread(target=work, args=("older",))
        older.start()
        deadline = time.monotonic() + 20
        while not core.queue.waiting and time.monotonic() < deadline:
            time.sleep(0.005)
        newer = threading.Thread(target=work, args=("newer",))
        newer.start()
        older.join(20)
    newer.join(60)
    assert (outcomes["older"].kind, outcomes["older"].reply) == ("superseded", "no mask")
    assert outcomes["newer"].kind == "mask"


def test_an_image_that_is_superseded_while_it_is_fetched_needs_no_place(core):
    def superseded(turn):
        raise SupersededError

    core.codec.waiting = [superseded]
    assert core.respond(Asked((Click(170.5, 120.5),))).kind == "superseded"
    assert core.respond(Asked((Click(170.5, 120.5),))).kind == "mask"
