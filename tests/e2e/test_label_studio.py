"""An annotator at a real page clicks, corrects, accepts, submits; what Label Studio then holds is the engine's mask."""

import io
import json
import os
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image
from skimage import draw

from demo.photos import sample_photos
from demo.studio import CONFIGS
from icmformer import CleanUp, LoadedImage, mask_to_polygons
from icmformer.serving.version_tags import version_tag
from tests.e2e.annotator import Annotator, clicks_of
from tests.ls_backend.conftest import rotated

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
FILES = {"coffee.jpg": sample_photos()["coffee.jpg"], "turned.png": rotated()}
ON_CUP, BESIDE = (0.45, 0.55), (0.1, 0.9)


def exported_png(studio, project):
    """A single mask is exported as itself, several as an archive."""
    content = studio.api("GET", f"/api/projects/{project}/export?exportType=BRUSH_TO_PNG")
    return np.asarray(Image.open(io.BytesIO(content))) > 0


@pytest.mark.parametrize("config", ["brush", "unified"])
def test_a_corrected_mask_is_stored_and_exported_pixel_for_pixel(studio, page, engine, decode, config):
    project = studio.project(f"e2e {config}", CONFIGS[config], {"coffee.jpg": FILES["coffee.jpg"]})
    image = LoadedImage.from_bytes(FILES["coffee.jpg"])
    annotator = Annotator(page, studio, project, "coffee")
    annotator.click(*ON_CUP)
    annotator.picture(f"{config}-1-click")
    annotator.click(*BESIDE, negative=True)
    annotator.picture(f"{config}-2-alt-click")
    assert [c.positive for c in clicks_of(annotator.sent, image)] == [True, False]
    stored = annotator.accept_and_submit()
    annotator.picture(f"{config}-3-submitted")
    (region,) = [r for r in stored["result"] if "rle" in r["value"] and r["type"] in ("brush", "brushlabels")]
    expected = engine.segment(image, clicks_of(annotator.sent, image)).mask
    assert expected.any()
    np.testing.assert_array_equal(decode(region["value"]["rle"], 600, 400), expected)
    np.testing.assert_array_equal(exported_png(studio, project), expected)


def test_polygons_are_stored_as_the_engine_draws_them(studio, page, engine):
    project = studio.project("e2e polygon", CONFIGS["polygon"], {"coffee.jpg": FILES["coffee.jpg"]})
    image = LoadedImage.from_bytes(FILES["coffee.jpg"])
    annotator = Annotator(page, studio, project, "coffee")
    annotator.click(*ON_CUP)
    annotator.picture("polygon")
    sent = annotator.sent
    stored = [r for r in annotator.accept_and_submit()["result"] if r["type"] == "polygonlabels"]
    mask = engine.segment(image, clicks_of(sent, image)).mask
    drawn = np.zeros(mask.shape, bool)
    for region in stored:
        points = np.array(region["value"]["points"]) * [6, 4] - 0.5
        drawn[draw.polygon(points[:, 1], points[:, 0], drawn.shape)] = True
    polygons = mask_to_polygons(CleanUp(fill_holes=mask.size)(mask), 200)
    assert len(stored) == len(polygons)
    for region, polygon in zip(stored, polygons, strict=True):
        np.testing.assert_allclose(np.array(region["value"]["points"]) * [6, 4], polygon.exterior, atol=1e-6)
    filled = CleanUp(fill_holes=10**9)(mask)
    assert (drawn & filled).sum() / (drawn | filled).sum() >= 0.98


def test_a_photo_with_an_orientation_tag(studio, page, engine, decode):
    project = studio.project("e2e turned", CONFIGS["brush"], {"turned.png": FILES["turned.png"]})
    image = LoadedImage.from_bytes(FILES["turned.png"])
    assert image.pixels.shape[:2] == (300, 451)
    annotator = Annotator(page, studio, project, "turned")
    annotator.click(0.4, 0.4)
    annotator.picture("turned")
    sent = annotator.sent
    (region,) = [r for r in annotator.accept_and_submit()["result"] if r["type"] == "brushlabels"]
    expected = engine.segment(image, clicks_of(sent, image)).mask
    np.testing.assert_array_equal(decode(region["value"]["rle"], 451, 300), expected)


def test_a_point_restored_from_a_draft_still_counts_as_positive(studio, page, engine, decode):
    project = studio.project("e2e draft", CONFIGS["brush"], {"coffee.jpg": FILES["coffee.jpg"]})
    image = LoadedImage.from_bytes(FILES["coffee.jpg"])
    annotator = Annotator(page, studio, project, "coffee")
    with page.expect_response(lambda r: r.request.method == "POST" and "/drafts" in r.url, timeout=60_000):
        annotator.click(*ON_CUP)
    annotator.open()
    annotator.click(0.6, 0.3)
    sent = annotator.sent
    assert len(sent) == 2
    assert any("is_positive" not in item for item in sent)
    (region,) = [r for r in annotator.accept_and_submit()["result"] if r["type"] == "brushlabels"]
    clicks = clicks_of(sent, image)
    assert all(c.positive for c in clicks)
    np.testing.assert_array_equal(decode(region["value"]["rle"], 600, 400), engine.segment(image, clicks).mask)


def object_clicks(studio):
    """Count and sum of the backend's metric of clicks an object."""
    with urllib.request.urlopen(f"{studio.backend_url}/metrics", timeout=20) as reply:
        told = [line.rsplit(" ", 1) for line in reply.read().decode().splitlines() if not line.startswith("#")]
    return tuple(
        sum(float(value) for name, value in told if name.startswith(f"icmformer_object_clicks_{what}{{"))
        for what in ("count", "sum")
    )


def test_the_webhook_tells_how_many_clicks_a_kept_mask_took(studio, page):
    project = studio.project("e2e webhook", CONFIGS["unified"], {"coffee.jpg": FILES["coffee.jpg"]})
    (hook,) = studio.api("GET", f"/api/webhooks/?project={project}")  # made when the model was connected
    assert (hook["url"], hook["send_payload"]) == (f"{studio.backend_url}/webhook", True)
    count, total = object_clicks(studio)
    annotator = Annotator(page, studio, project, "coffee")
    annotator.click(*ON_CUP)
    annotator.click(*BESIDE, negative=True)
    saved = annotator.accept_and_submit()["result"]
    with urllib.request.urlopen(f"{studio.backend_url}/health", timeout=20) as reply:
        tag = version_tag(json.load(reply)["model_version"])
    masks = [region["id"] for region in saved if region["type"] == "brush"]
    assert [identity[16:] for identity in masks] == [f"n2v{tag}"]  # of the last answer, as the page keeps it
    deadline = time.monotonic() + 20
    while object_clicks(studio) == (count, total) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert object_clicks(studio) == (count + 1, total + 2)


@pytest.mark.parametrize(("token", "status", "said"), [(None, 0, "token           ok"), ("0" * 40, 1, "is wrong")])
def test_the_backends_own_check_finds_label_studio_and_its_token(studio, token, status, said):
    environment = {**os.environ, "LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": token or studio.token}
    command = [sys.executable, "-m", "icmformer", "serve", "label-studio", "--check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, said in done.stdout) == (status, True), done.stdout + done.stderr
