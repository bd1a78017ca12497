"""`icmformer try` in a real browser: what is clicked is what the engine segments, seen, and saved."""

import io
import json
import shlex
import signal

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from icmformer.cli.main import main
from icmformer.images.masks import mask_png, write_image
from icmformer.serving.description import description
from tests.conftest import TINY
from tests.e2e.try_page import Page, as_dropped, assert_shown, png, result_of, shown_mask
from tests.tryout.running import Running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
COFFEE, CAT = data.coffee(), data.chelsea()
NONE = "\u2013"  # the dash where there is no figure
COLOURS = [(38, 208, 124), (255, 140, 66)]  # of the first objects


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_image(folder / "1 coffee.png", COFFEE)
    write_image(folder / "2 cat.png", CAT)
    write_image(folder / "3 large.png", np.asarray(cv2.resize(COFFEE, (4500, 3000), interpolation=cv2.INTER_CUBIC)))
    (folder / "4 broken.jpg").write_bytes(b"\xff\xd8\xff but no photo")
    return folder


@pytest.fixture(scope="module")
def address(folder):
    tried = Running(folder, "--no-browser", "--weights", "starter", "--profile", "fast")
    yield tried.address
    status, said = tried.stop()
    assert (status, said) == (0, "stopped\n")


@pytest.fixture
def visit(browser, address):
    """Opens the page; at its end no error was in its console, and it asked nobody else."""
    made = []

    def opened(at=address, errors=(), **options):
        made.append((Page(browser, at, **options), errors))
        return made[-1][0]

    yield opened
    for page, errors in made:
        page.context.close()
        assert page.elsewhere == []
        assert [text for text in page.wrong if not any(known in text for known in errors)] == []


REFUSED = "Failed to load resource"  # the browser's own line about a status that is not 200


def test_clicks_and_their_undoing_are_seen_pixel_for_pixel(visit, engine):
    page = visit()
    page.tab.uncheck("#outline")
    session = [((300, 200), "left"), ((450, 190), "right"), ((250, 300), "left"), ((100, 300), "Alt")]
    places, prompts = [place for place, _ in session], []
    for count, (place, how) in enumerate(session, 1):
        if how == "Alt":
            page.tab.keyboard.down("Alt")
        prompt, reply = page.click(*place, button="right" if how == "right" else "left")
        page.tab.keyboard.up("Alt")
        prompts.append(prompt)
        assert [click["positive"] for click in prompt["clicks"]] == [how == "left" for _, how in session[:count]]
        assert np.abs(np.subtract([prompt["clicks"][-1][key] for key in "xy"], place)).max() < 0.6
        expected = result_of(engine, COFFEE, prompt)
        assert (page.text("score"), page.text("area")) == (f"{expected.score:.2f}", f"{expected.mask.sum():,}")
        assert float(page.text("spent").replace(",", "")) == pytest.approx(reply["timings_ms"]["total"], abs=0.51)
        assert_shown(page, COFFEE, expected.mask, places[:count])
    asked = len(page.asked)
    for key, count in (("z", 3), ("z", 2), ("z", 1), ("y", 2), ("y", 3)):
        page.press(f"Control+{key}")
        assert_shown(page, COFFEE, result_of(engine, COFFEE, prompts[count - 1]).mask, places[:count])
    page.tab.locator("#redo").click()
    assert page.tab.locator("#redo").is_disabled()
    page.press("Escape")
    assert page.text("score") == NONE
    assert not shown_mask(page, COFFEE)[0].any()
    page.tab.locator("#undo").click()
    assert_shown(page, COFFEE, result_of(engine, COFFEE, prompts[3]).mask, places)
    assert len(page.asked) == asked  # all of that was known
    page.tab.check("#outline")
    page.picture("try")


def test_a_box_is_dragged_and_clicks_correct_it(visit, engine):
    page = visit()
    page.press("PageDown")
    page.ready("cat")
    page.tab.uncheck("#outline")
    prompt, _ = page.drag((60, 40), (400, 280))
    assert prompt["clicks"] == []
    np.testing.assert_allclose(prompt["box"], [60, 40, 400, 280], atol=0.6)
    page.press("Control+z")
    page.press("Control+Shift+z")
    prompt, reply = page.click(180, 150, button="right")
    assert reply["area"] == result_of(engine, CAT, prompt).mask.sum()
    prompt, _ = page.drag((390, 250), (900, -300))  # from the photo to beyond its corner
    assert prompt["box"][1] == 0
    assert prompt["box"][2] == 451
    assert len(prompt["clicks"]) == 1


def test_the_view_zooms_and_moves_and_masks_stay_on_their_pixels(visit, engine):
    page = visit(device_scale_factor=2)
    page.tab.uncheck("#outline")
    prompt, _ = page.click(300, 200)
    mask = result_of(engine, COFFEE, prompt).mask
    before = page.view
    pointer = [round(value) for value in page.place(330, 130)]
    (scale, left, top), box = before, page.tab.locator("#canvas").bounding_box()
    below = (2 * (pointer[0] - box["x"]) - left) / scale, (2 * (pointer[1] - box["y"]) - top) / scale
    page.tab.mouse.move(*pointer)
    for _ in range(4):
        page.tab.mouse.wheel(0, -240)
    page.settle()
    assert page.view[0] > 2 * before[0]
    np.testing.assert_allclose(page.place(*below), pointer, atol=0.5)  # what is below the pointer stays there
    assert_shown(page, COFFEE, mask, [(300, 200)])
    page.tab.keyboard.down("Shift")
    scale, left, top = page.view
    start = page.place(330, 130)
    page.drag((330, 130), (300, 140), act=lambda pull: pull())
    page.tab.keyboard.up("Shift")
    page.settle()
    assert page.view[0] == scale
    moved = (page.view[1] - left) / 2, (page.view[2] - top) / 2
    np.testing.assert_allclose(moved, (-30 * scale / 2, 10 * scale / 2), atol=2)
    np.testing.assert_allclose(page.place(330, 130), np.add(start, moved), atol=1)
    assert_shown(page, COFFEE, mask, [(300, 200)])
    prompt, _ = page.click(310.5, 120.5)
    assert abs(prompt["clicks"][-1]["x"] - 310.5) < 0.3
    page.press("1")
    assert page.view[0] == pytest.approx(1)
    page.press("0")
    assert page.view == before


def test_outline_opacity_and_the_photo_alone(visit, engine):
    page = visit()
    prompt, _ = page.click(300, 200)
    mask = result_of(engine, COFFEE, prompt).mask
    scale, left, top = page.view
    with_outline = page.pixels()
    line = (with_outline[..., :3] == COLOURS[0]).all(2)
    rows, columns = (
        np.floor((v + 0.5 - o) / scale).astype(int) for v, o in zip(np.nonzero(line), (top, left), strict=True)
    )
    assert len(rows) > 500
    assert mask[rows, columns].all()
    deep = cv2.erode(np.pad(mask, 1).astype(np.uint8), np.ones((5, 5)))[1:-1, 1:-1].astype(bool)
    assert not deep[rows, columns].any()  # it runs along the mask's edge alone
    page.tab.locator("#opacity").fill("0")
    page.tab.uncheck("#outline")
    assert not shown_mask(page, COFFEE, [(300, 200)])[0][: int(top + 150 * scale)].any()
    page.tab.locator("#opacity").fill("90")
    strong = page.pixels()
    page.tab.uncheck("#shown")
    bare = page.pixels()
    page.tab.check("#shown")
    page.tab.locator("#canvas").focus()
    page.tab.keyboard.down("Space")
    np.testing.assert_array_equal(page.pixels(), bare)
    page.tab.keyboard.up("Space")
    np.testing.assert_array_equal(page.pixels(), strong)


def test_objects_have_colours_of_their_own_and_wait_on_their_photos(visit, engine):
    page = visit()
    first, _ = page.click(300, 200)
    page.press("n")
    assert page.text("score") == NONE
    second, _ = page.click(420, 330)
    assert second["clicks"][0]["x"] == pytest.approx(420, abs=0.6)
    assert len(second["clicks"]) == 1
    pixels = page.pixels()[..., :3]
    for colour in COLOURS:
        assert (pixels == colour).all(2).sum() > 30
    page.press("PageDown")
    page.ready("cat")
    assert not page.tab.locator("#list").is_visible()
    page.click(200, 150)
    page.press("PageUp")
    page.ready("coffee")
    rows = page.tab.locator("#objects li")
    assert rows.count() == 2
    page.tab.locator("#objects .pick").nth(0).click()
    assert page.text("of") == "Object 1"
    again, _ = page.click(450, 190, button="right")
    assert again["clicks"][0] == first["clicks"][0]
    assert page.text("area") == f"{result_of(engine, COFFEE, again).mask.sum():,}"
    page.tab.get_by_role("button", name="Remove object 1").click()
    page.settle()
    assert not page.tab.locator("#list").is_visible()
    assert page.text("of") == "Object 2"
    assert page.text("area") == f"{result_of(engine, COFFEE, second).mask.sum():,}"


def test_files_saved_and_text_copied_are_the_engines_and_the_command_makes_them(visit, engine, folder, tmp_path):
    page = visit()
    page.drag((140, 10), (430, 330))
    prompt, _ = page.click(450, 190, button="right")
    expected = result_of(engine, COFFEE, prompt)
    name, content = page.saved("save-mask")
    assert (name, content) == ("1 coffee_mask.png", mask_png(expected.mask))
    mask = np.asarray(Image.open(io.BytesIO(content)))
    assert mask.shape == (400, 600)
    assert set(np.unique(mask)) == {0, 255}

    def without_times(said):
        return {key: value for key, value in said.items() if key != "timings_ms"}

    name, content = page.saved("save-polygons")
    assert name == "1 coffee_mask.json"
    assert without_times(json.loads(content)) == without_times(description(expected))
    page.tab.fill("#points", "50")
    page.tab.click("#copy-polygons")
    page.tab.wait_for_selector("#copy-polygons:has-text('Copied')")
    copied = json.loads(page.tab.evaluate("() => navigator.clipboard.readText()"))
    assert without_times(copied) == without_times(description(expected, 50))
    page.tab.fill("#points", "2")
    page.tab.click("#save-polygons")
    assert "a whole number, 4 or more" in page.alert()
    page.tab.click("#copy-command")
    page.tab.wait_for_selector("#copy-command:has-text('Copied')")
    words = shlex.split(page.tab.evaluate("() => navigator.clipboard.readText()"))
    assert words[:3] == ["icmformer", "segment", "1 coffee.png"]
    words[2], words[-1] = str(folder / words[2]), str(tmp_path / words[-1])
    assert main(words[1:]) == 0
    assert (tmp_path / "1 coffee_mask.png").read_bytes() == mask_png(expected.mask)


def test_a_large_photo_is_shown_small_and_clicked_on_in_its_own_pixels(visit, engine, folder):
    page = visit()
    for name in ("cat", "large"):
        page.press("PageDown")
        page.ready(name)
    assert page.text("size") == "4500 \u00d7 3000 · 3 of 4"
    large = np.asarray(Image.open(folder / "3 large.png").convert("RGB"))
    page.tab.uncheck("#outline")
    prompt, _ = page.click(2250, 1500)
    np.testing.assert_allclose([prompt["clicks"][0]["x"], prompt["clicks"][0]["y"]], [2250, 1500], atol=3)
    expected = result_of(engine, large, prompt)
    assert_shown(page, large, expected.mask, [(2250, 1500)])
    assert page.saved("save-mask")[1] == mask_png(expected.mask)
    assert ("GET", "photos/2/view") in page.asked
    assert not [path for _, path in page.asked if "left=" in path]
    with page.tab.expect_response(lambda reply: "left=" in reply.url):
        page.tab.keyboard.press("1")
    page.settle()
    page.tab.uncheck("#shown")
    scale, left, top = page.view
    assert scale == pytest.approx(1)
    column, row = round(-left), round(-top)
    seen = page.pixels()[:600, :800, :3]
    assert np.abs(seen - large[row : row + 600, column : column + 800]).mean() < 3


def test_dropped_and_chosen_photos_are_opened_and_others_refused(visit, engine):
    page = visit(errors=[REFUSED])
    rocket = np.ascontiguousarray(data.rocket())
    as_dropped(page, {"dropped rocket.png": png(rocket), "notes.txt": b"no photo"})
    page.ready("dropped rocket")
    assert page.alert().startswith("Notes.txt: these 8 bytes are not an image of a known format (JPEG, PNG, ")
    assert page.text("size").startswith("640 \u00d7 427 · 5 of ")
    prompt, reply = page.click(320, 200)
    assert page.tab.locator("#alert").is_hidden()
    assert reply["area"] == result_of(engine, rocket, prompt).mask.sum()
    page.tab.set_input_files("#file", [{"name": "chosen.png", "mimeType": "image/png", "buffer": png(CAT)}])
    page.ready("chosen")
    page.click(200, 150)


def test_a_photo_that_cannot_be_read_and_a_click_beside_one_are_said(visit):
    page = visit(errors=[REFUSED])
    page.tab.mouse.click(*page.place(-6, 200))
    assert page.alert() == "This click is outside the photo."
    for _ in range(3):
        page.press("PageDown")
    page.tab.wait_for_selector("#name[title*='broken']")
    assert "4 broken.jpg: the image file ends early or is damaged" in page.alert()
    for button in ("undo", "save-mask", "fit"):
        assert page.tab.locator(f"#{button}").is_disabled()
    page.tab.mouse.click(500, 400)  # does nothing, and breaks nothing
    page.press("PageUp")
    page.ready("large")
    assert page.tab.locator("#alert").is_hidden()


def test_a_click_off_the_object_alone_is_advised_on(visit):
    page = visit()
    page.tab.get_by_text("not the object", exact=True).first.click()
    prompt, reply = page.click(100, 100)
    assert prompt["clicks"][0]["positive"] is False
    assert reply["area"] == 0
    assert page.text("advice") == "The mask is empty: add a click on the object, or a box."
    assert page.text("status") == page.text("advice")


def test_it_can_be_used_from_the_keyboard_and_by_a_screen_reader(visit, engine):
    page = visit()
    page.tab.locator("#canvas").focus()
    for key in ("ArrowRight", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowUp"):
        page.press(key)
    assert page.text("status").startswith("Cross at ")
    x, y = (int(number) for number in page.text("status").removeprefix("Cross at ").split(", "))
    prompt, _ = page.answered(lambda: page.tab.keyboard.press("Enter"))
    assert (int(prompt["clicks"][0]["x"]), int(prompt["clicks"][0]["y"])) == (x, y)
    score = result_of(engine, COFFEE, prompt).score
    assert page.text("status").startswith(f"Score {score:.2f}, ")
    prompt, _ = page.answered(lambda: page.tab.keyboard.press("Alt+Enter"))
    assert [click["positive"] for click in prompt["clicks"]] == [True, False]
    for name in ("Undo", "Redo", "Clear", "Next object", "Mask, PNG", "Polygons, JSON", "Next photo", "Zoom in"):
        assert page.tab.get_by_role("button", name=name, exact=True).count() == 1
    nameless = page.tab.evaluate(
        "() => [...document.querySelectorAll('button, input, canvas')].filter(e => !(e.textContent.trim() || "
        "e.getAttribute('aria-label') || (e.labels && e.labels.length))).map(e => e.outerHTML)"
    )
    assert nameless == []
    assert page.tab.get_attribute("#status", "aria-live") == "polite"
    assert page.tab.get_attribute("#alert", "role") == "alert"
    assert page.tab.get_by_role("application", name="Photo with masks").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_window_in_light_and_dark(visit, scheme):
    page = visit(viewport={"width": 360, "height": 700}, color_scheme=scheme, has_touch=True)
    ground = page.tab.evaluate("() => getComputedStyle(document.querySelector('header')).backgroundColor")
    assert (sum(int(v) for v in ground[4:-1].split(",")) > 380) == (scheme == "light")
    before = page.view
    prompt, reply = page.answered(lambda: page.tab.touchscreen.tap(*page.place(300, 200)))
    assert prompt["clicks"][0]["x"] == pytest.approx(300, abs=2)
    assert reply["area"] > 0
    assert page.view == before  # the photo stays where it is as figures appear
    assert page.tab.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    for button in page.tab.get_by_role("button").all():
        if button.is_visible():
            box = button.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360
    page.picture(f"try_narrow_{scheme}")


def test_a_server_that_has_gone_is_said_and_its_clicks_can_be_redone(visit, browser, folder):
    tried = Running(folder / "1 coffee.png", "--no-browser", "--weights", TINY)
    page = visit(tried.address, errors=["ERR_CONNECTION_REFUSED", REFUSED])
    page.click(300, 200)
    assert tried.stop(signal.SIGTERM)[0] == 0
    page.tab.mouse.click(*page.place(100, 100))
    assert page.alert() == "The server does not answer. Is “icmformer try” still running in its terminal?"
    assert page.text("score") != NONE  # the mask before it is still there
    assert page.tab.locator("#redo").is_enabled()
    page.press("Control+y")
    assert page.alert().startswith("The server does not answer.")


def test_without_photos_the_page_asks_for_one(visit, browser):
    tried = Running("--no-browser", "--weights", TINY)
    try:
        page = visit(tried.address, photo=False)
        assert page.text("empty") == "Drop a photo here, or use “Open a photo…”."
        page.tab.mouse.click(300, 300)
        page.press("n")
        page.press("Control+z")
        as_dropped(page, {"cat.png": png(CAT)})
        page.ready("cat")
        page.click(200, 150)
        assert page.tab.locator("#empty").is_hidden()
    finally:
        assert tried.stop()[0] == 0
