"""The report by version: which masks count for which, in logs of today's servers and of older ones."""

import json

import numpy as np
import pytest

from icmformer.cli.main import main
from icmformer.serving.click_intervals import MeanClicks, difference
from icmformer.serving.click_log import read
from icmformer.serving.version_tags import version_tag

OLD, NEW = "icmformer starter 0a1b2c3d fast", "icmformer team-0002 99887766 fast"
CLICK = {"event": "click", "result": "mask", "negative": 0, "box": False, "milliseconds": 20.0}


def clicked(time, model=None, positive=1, tool="label studio", **facts):
    named = {} if model is None else {"model": model}
    return {**CLICK, "time": time, "tool": tool, "positive": positive, **named, **facts}


def kept(clicks, model=None, identity="0123456789abcdef", edited=False):
    region = {"id": f"{identity}n{clicks}", "clicks": clicks, "edited": edited}
    return region if model is None else {**region, "version": version_tag(model)}


def saved(time, annotation, *regions):
    facts = {"event": "accepted", "tool": "label studio", "annotation": annotation, "regions": list(regions)}
    return {"time": time, **facts}


@pytest.fixture
def report(tmp_path, capsys):
    """What the command finds in lines, and what it prints for people."""

    def run(*lines):
        path = tmp_path / "clicks.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert len(list(read([path]))) == len(lines)
        assert main(["clicks", "report", str(path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert main(["clicks", "report", str(path)]) == 0
        return found, capsys.readouterr().out

    return run


def test_versions_are_compared_in_the_order_of_their_first_use(report):
    generator = np.random.default_rng(0)
    before, after = generator.poisson(1.5, (30, 4)) + 1, generator.poisson(0.4, (25, 4)) + 1
    lines = [clicked("2026-03-01T10:00", NEW), clicked("2026-01-01T10:00", OLD), clicked("2026-05-01T10:00", OLD)]
    lines += [saved("2026-03-02T10:00", 100 + n, *(kept(int(c), NEW) for c in row)) for n, row in enumerate(after)]
    lines += [saved("2026-01-02T10:00", n, *(kept(int(c), OLD) for c in row)) for n, row in enumerate(before)]
    found, told = report(*lines)
    old, new = found["label studio"]["versions"]
    assert [(v["version"], v["tag"], v["first_used"]) for v in (old, new)] == [
        (OLD, version_tag(OLD), "2026-01-01T10:00"),
        (NEW, version_tag(NEW), "2026-03-01T10:00"),
    ]
    for version, clicks in ((old, before), (new, after)):
        expected = MeanClicks.of(clicks.ravel(), np.repeat(np.arange(len(clicks)), 4))
        assert (version["objects"], version["annotations"]) == (clicks.size, len(clicks))
        assert version["clicks_an_object"]["mean"] == pytest.approx(clicks.mean())
        assert version["clicks_an_object"]["interval"] == pytest.approx(expected.interval)
        assert version["first_masks_accepted"] == (clicks == 1).mean()
    assert (old["requests"], new["requests"]) == (2, 1)
    assert "against" not in old
    means = [MeanClicks.of(c.ravel(), np.repeat(np.arange(len(c)) + at, 4)) for c, at in ((before, 0), (after, 100))]
    against = new["against"]
    assert against["version"] == OLD
    assert against["difference"] == pytest.approx(after.mean() - before.mean())
    assert against["interval"] == pytest.approx(difference(*means).interval)
    assert (against["few"], against["verdict"]) == (False, "fewer")
    assert found["label studio"]["objects"] == before.size + after.size
    low, high = against["interval"]
    assert f"against {OLD}: {after.mean() - before.mean():+.2f} clicks a kept mask" in told
    assert f"(95% interval {low:+.2f} to {high:+.2f}): fewer" in told
    assert "the photos, the annotators" in told


def test_masks_of_an_annotation_count_for_the_versions_that_made_them(report):
    """And as the annotation was saved last."""
    lines = [clicked("1", OLD), clicked("2", NEW)]
    lines += [saved("3", 1, kept(5, OLD)), saved("4", 1, kept(2, OLD), kept(1, NEW, edited=True))]
    found, told = report(*lines)
    old, new = found["label studio"]["versions"]
    assert [v["clicks_an_object"]["by_number"] for v in (old, new)] == [{"2": 1}, {"1": 1}]
    assert [v["edited"] for v in (old, new)] == [0, 1]
    assert new["clicks_an_object"]["interval"] is None
    assert (new["against"]["interval"], new["against"]["verdict"]) == (None, "not told apart")
    assert "not told apart (a verdict takes 10 annotations of each)" in told


def test_a_log_of_an_older_server_knows_versions_by_the_clicks_in_it(report):
    """Its ids have no tag; the click with the same id has the model. Where two models made one id, neither counts."""
    ids = [f"{n:016x}" for n in range(4)]
    lines = [
        clicked("1", OLD, region=f"{ids[0]}n1"),
        clicked("2", OLD, region=f"{ids[1]}n1"),
        clicked("3", NEW, region=f"{ids[1]}n1"),
        clicked("4", region=f"{ids[2]}n1"),
    ]
    lines.append(saved("5", 1, *(kept(1, identity=identity) for identity in ids)))
    found, told = report(*lines)
    figures = found["label studio"]
    assert figures["objects"] == 4
    assert {v["version"]: v.get("objects", 0) for v in figures["versions"]} == {OLD: 1, NEW: 0, None: 3}
    assert not [v for v in figures["versions"] if "against" in v]
    assert "not known, since 4" in told


def test_a_version_whose_clicks_are_in_no_log_has_its_name_from_the_server_or_its_tag(report):
    named = {**kept(2, NEW), "model": NEW}
    found, told = report(saved("1", 1, kept(2, OLD)), saved("2", 2, named))
    assert [v["version"] for v in found["label studio"]["versions"]] == [None, NEW]
    assert found["label studio"]["versions"][1]["against"]["version"] == version_tag(OLD)
    assert f"{version_tag(OLD)} (no click in these logs names it)" in told


def test_cvats_versions_are_compared_by_clicks_a_request_without_a_verdict(report):
    lines = [clicked(str(n), OLD, positive=3, tool="cvat") for n in range(3)]
    lines += [clicked(str(n), NEW, positive=2, tool="cvat", milliseconds=40.0) for n in range(5, 9)]
    found, told = report(*lines)
    old, new = found["cvat"]["versions"]
    assert (old["clicks_a_request"]["mean"], new["clicks_a_request"]["mean"]) == (3, 2)
    assert (old["milliseconds"]["median"], new["milliseconds"]["median"]) == (20, 40)
    assert new["against"] == {"version": OLD, "difference": -1}
    assert "-1.00 clicks a request; of clicks per kept mask this says little" in told


def test_one_version_is_told_once(report):
    found, told = report(clicked("1", OLD), saved("2", 1, kept(1, OLD)))
    assert len(found["label studio"]["versions"]) == 1
    assert "by first use" not in told
    assert "annotators" not in told


def test_lines_with_versions_that_are_no_text_are_left_out(tmp_path):
    path = tmp_path / "clicks.jsonl"
    lines = [clicked("1", OLD), clicked("2", ["a"]), saved("3", 1, {**kept(1), "version": {}})]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [line["time"] for line in read([path])] == ["1"]
