"""Every limit that the two servers have: kept, and told to whoever runs into it. The table is in docs/security.md."""

import base64
import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from icmformer import LoadedImage
from icmformer.errors import ImageTooLargeError
from icmformer.images import display
from icmformer.serving.errors import RequestError
from ls_backend.labelling_config import read_config
from tests.conftest import ROOT
from tests.hostile import corpus, pictures
from tests.hostile.conftest import ask_function
from tests.ls_backend.conftest import BRUSH, body, click

WORST = [entry.name for entry in corpus.entries() if entry.name.startswith("picture: bomb: ")]
PLAIN = (
    "text: a list of a million",
    "text: closed lists 100,000 deep",
    "prompt: 100,000 of them",
    "config: a billion laughs",
    "config: quadratic blow-up",
    "config: labels within labels",
    "config: a value of 20,000 fields",
    "config: a value of a field 30 times",
    "filled: a Repeater of a million entries",
    "filled: Repeaters within Repeaters",
    "filled: a Repeater of a long attribute",
    "filled: a Repeater beside a long attribute",
    "filled: a Repeater of 20,000 labels",
    "filled: labels of both in 8,000 controls",
    "context: 50,000 regions",
)
ROOM = 160e6  # bytes: what a bad request may take beyond what the server holds
# Bytes a pixel, at most, from the file to the array: Pillow's own image has four, the array three.
AMPLE = 10


def test_bombs_take_little_memory():
    """All that were made to take much, each measured in a process that serves both."""
    command = [sys.executable, "-m", "tests.hostile.memory", *WORST, *PLAIN]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=True)
    taken = json.loads(done.stdout.splitlines()[-1])
    assert len(taken) >= 30
    worst = sorted(taken.items(), key=lambda item: -item[1])[:10]
    print("\n".join(f"{size / 1e6:6.0f} MB {name}" for name, size in worst))
    assert all(size < ROOM for _, size in worst), worst


DECODE = """
import io, sys
from pathlib import Path
from icmformer import decode_image
from tests.hostile.memory import growth
content = sys.stdin.buffer.read()
print(growth(lambda: decode_image(content)))
"""


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "CMYK", "F", "P", "LAB"])
def test_an_image_takes_few_bytes_a_pixel_on_its_way_to_an_array(mode):
    """An image at the limit of 100 megapixels takes that much memory from a file of a few kilobytes."""
    width, height = 4000, 3000
    image = Image.new("L" if mode == "P" else mode, (width, height))
    image = image.convert("P") if mode == "P" else image
    out = io.BytesIO()
    in_tiff = mode in ("CMYK", "F", "LAB")
    image.save(out, "TIFF" if in_tiff else "PNG", **({"compression": "tiff_deflate"} if in_tiff else {}))
    done = subprocess.run(
        [sys.executable, "-c", DECODE], cwd=ROOT, input=out.getvalue(), capture_output=True, timeout=60, check=True
    )
    assert int(done.stdout) < AMPLE * width * height + 20e6


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_bands_make_the_pixels_that_the_whole_makes(mode, monkeypatch):
    rng = np.random.default_rng(0)
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray((rng.random((70, 50)) * 60_000).astype(kind))
    else:
        image = Image.fromarray(rng.integers(0, 256, (70, 50, 3), np.uint8)).convert(mode)
    whole = LoadedImage.from_pil(image).pixels
    monkeypatch.setattr(display, "_BAND", 50 * 8)  # rows that do not divide the height
    np.testing.assert_array_equal(LoadedImage.from_pil(image).pixels, whole)


def test_a_jpeg_of_very_many_scans_is_refused_unread_and_one_of_many_is_opened():
    with pytest.raises(ImageTooLargeError, match="scans"):
        LoadedImage.from_bytes(pictures.scans(300))
    assert LoadedImage.from_bytes(pictures.scans(50)).pixels.shape == (64, 96, 3)


def test_pixels_of_the_function(context):
    large = base64.b64encode(pictures.png(12_000, 10_000, depth=1, colour=0)).decode()
    status, text = ask_function(context, json.dumps(corpus.function_body(image=large)).encode())
    assert (status, json.loads(text)["kind"]) == (413, "too large")
    assert "ICMFORMER_MAX_PIXELS" in text


@pytest.mark.parametrize(("count", "status"), [(20, 200), (101, 400)])
def test_clicks_of_the_function(context, count, status):
    request = corpus.function_body(pos_points=[[3, 3]] * count)
    assert ask_function(context, json.dumps(request).encode())[0] == status


def test_clicks_of_the_backend(app):
    items = [click(30, 40, identity=f"k{n}") for n in range(201)]
    reply = app.test_client().post("/predict", json=body(*items), headers={"Authorization": corpus.LOGIN})
    assert reply.status_code == 400
    assert "200" in reply.json["error"]


def test_lists_and_objects_in_a_body(app):
    for content in (b"[" + b"[]," * 600_000 + b"[]]", b"{" * 600_000):
        headers = {"Authorization": corpus.LOGIN, "Content-Type": "application/json"}
        reply = app.test_client().post("/webhook", data=content, headers=headers)
        assert (reply.status_code, reply.json["kind"]) == (400, "bad request")
        assert "lists and objects" in reply.json["error"]


def test_bodies_of_the_backend(app):
    reply = app.test_client().post("/predict", data=b"x" * ((8 << 20) + 1), headers={"Authorization": corpus.LOGIN})
    assert reply.status_code == 413
    assert "ICMFORMER_MAX_BODY_MB" in reply.json["error"]


def test_files_of_the_backend(app, hostile_studio):
    request = body(click(30, 40), image="/hostile/bomb")
    reply = app.test_client().post("/predict", json=request, headers={"Authorization": corpus.LOGIN})
    assert (reply.status_code, reply.json["kind"]) == (413, "too large")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("<View>" + "".join(f'<Image name="i{n}" value="$i"/>' for n in range(20_000)) + "</View>", "at most 100"),
        ("<a>" * 60 + "</a>" * 60, "50 tags within each other"),
        (f"<View>{' ' * (1 << 20)}</View>", "too long"),
    ],
)
def test_labelling_configs_cost_no_more_than_their_length(config, text):
    started = time.process_time()
    with pytest.raises(RequestError, match=text):
        read_config(config)
    assert time.process_time() - started < 2


def test_a_large_labelling_config_is_read():
    many = "".join(f'<Label value="l{n}"/>' for n in range(5000))
    tags = '<Image name="i{0}" value="$i{0}"/><BrushLabels name="b{0}" toName="i{0}">{1}</BrushLabels>'
    images = read_config("<View>" + "".join(tags.format(n, many if n == 7 else "") for n in range(50)) + "</View>")
    assert len(images) == 50
    assert len(images["i7"].outputs[0].labels) == 5000
    assert read_config(BRUSH)["image"].outputs[0].labels == {"Cat", "Cup"}


def test_one_control_draws_on_several_images():
    config = BRUSH.replace("<Image", '<Image name="other" value="$other"/><Image')
    config = config.replace('"brush" toName="image"', '"brush" toName="image, other"')
    images = read_config(config)
    assert [output.name for output in images["other"].outputs] == ["brush"]
    assert images["other"].outputs[0] == images["image"].outputs[0]
