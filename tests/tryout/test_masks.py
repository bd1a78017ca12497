"""A session of clicks on the page gives the masks that the command line gives."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from skimage import data

from icmformer import Box, Click
from icmformer.cli.main import main
from icmformer.inference.engine import Caches
from tests.engines import engine
from tests.tryout.conftest import mask_of

ON, OFF = True, False
SESSIONS = {
    "clicks": (0, [(300.25, 200.5, ON), (450, 200, OFF), (240.75, 330, ON), (599.99, 399.99, OFF)]),
    "box": (1, [[60.5, 30, 400, 290.25], (120, 100, OFF), (200, 150, ON)]),
    "not the object first": (1, [(20, 20, OFF), (170.5, 120.5, ON), [100, 50, 300, 200]]),
}
PHOTOS = (data.coffee, data.chelsea)


def prompt_of(steps):
    clicks = [{"x": s[0], "y": s[1], "positive": s[2]} for s in steps if isinstance(s, tuple)]
    boxes = [s for s in steps if isinstance(s, list)]
    return {"clicks": clicks, "box": boxes[-1] if boxes else None}


def options_of(steps):
    words = []
    for step in steps:
        if isinstance(step, tuple):
            words += ["--click" if step[2] else "--negative", f"{step[0]},{step[1]}"]
    boxes = [step for step in steps if isinstance(step, list)]
    return words + (["--box", ",".join(map(str, boxes[-1]))] if boxes else [])


@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_ends_with_the_file_and_the_polygons_of_segment(served, folder, tmp_path, capsys, name):
    number, steps = SESSIONS[name]
    replies = [
        served.json("POST", f"photos/{number}/mask", prompt_of(steps[:count])) for count in range(1, len(steps) + 1)
    ]
    file = tmp_path / "mask.png"
    photo = folder / ("coffee.png", "chelsea.png")[number]
    common = ["--weights", "starter", "--device", "cpu", "--profile", "fast", "--json", "-o", str(file)]
    assert main(["segment", str(photo), *options_of(steps), *common]) == 0
    printed = json.loads(capsys.readouterr().out)
    status, headers, saved = served.ask("POST", f"photos/{number}/mask.png", prompt_of(steps))
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert saved == file.read_bytes()
    polygons = served.json("POST", f"photos/{number}/polygons", prompt_of(steps))
    assert polygons.keys() == printed.keys()
    for key in printed.keys() - {"timings_ms"}:
        assert polygons[key] == printed[key], key
    assert {key: replies[-1][key] for key in ("score", "area", "roi")} == {
        key: printed[key] for key in ("score", "area", "roi")
    }
    assert 0 < printed["area"] < PHOTOS[number]().shape[0] * PHOTOS[number]().shape[1]
    assert len({json.dumps(reply["runs"]) for reply in replies}) > 1  # clicks changed it on the way


@pytest.mark.parametrize("name", SESSIONS)
def test_each_click_of_a_session_gives_the_engines_mask(served, name):
    number, steps = SESSIONS[name]
    photo, fresh = PHOTOS[number](), engine("fast", Caches())
    for count in range(1, len(steps) + 1):
        prompt = prompt_of(steps[:count])
        reply = served.json("POST", f"photos/{number}/mask", prompt)
        clicks = [Click(c["x"], c["y"], c["positive"]) for c in prompt["clicks"]]
        expected = fresh.segment(photo, clicks, Box(*prompt["box"]) if prompt["box"] else None)
        np.testing.assert_array_equal(mask_of(reply, photo.shape[:2]), expected.mask)
        assert reply["score"] == round(expected.score, 4)
        assert reply["area"] == expected.mask.sum()
        assert reply["timings_ms"]["total"] > 0


def test_a_budget_of_polygon_points_holds(served):
    prompt = {**prompt_of(SESSIONS["clicks"][1][:1]), "max_points": 40}
    exact = served.json("POST", "photos/0/polygons", {**prompt, "max_points": None})["polygons"]
    few = served.json("POST", "photos/0/polygons", prompt)["polygons"]

    def points(polygons):
        return sum(len(ring) for polygon in polygons for ring in (polygon["exterior"], *polygon["holes"]))

    assert 4 <= points(few) <= 40 < points(exact)


def test_only_clicks_off_the_object_give_an_empty_mask(served):
    reply = served.json("POST", "photos/0/mask", prompt_of([(300, 200, OFF)]))
    assert (reply["runs"], reply["area"], reply["score"]) == ([], 0, 0.0)


def test_several_tabs_get_the_replies_of_one(served):
    requests = [(n, prompt_of(steps[:count])) for n, steps in SESSIONS.values() for count in (1, 2, 3)]
    alone = [served.json("POST", f"photos/{n}/mask", prompt)["runs"] for n, prompt in requests]
    with ThreadPoolExecutor(6) as pool:
        many = pool.map(lambda r: served.json("POST", f"photos/{r[0]}/mask", r[1])["runs"], requests * 2)
        assert list(many) == alone * 2
