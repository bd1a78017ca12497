"""A real Label Studio with the backend, and a real browser. `make e2e` brings both; without them these tests skip."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from demo.studio import PASSWORD, USER, Studio
from icmformer import Engine
from tests.conftest import ROOT

STUDIO_BIN = Path(os.environ.get("ICMFORMER_STUDIO_BIN", ROOT / ".venv-label-studio" / "bin"))
CHROMIUM = os.environ.get("ICMFORMER_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PICTURES = Path(os.environ.get("ICMFORMER_E2E_PICTURES", ROOT / "out" / "e2e"))
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def studio(tmp_path_factory):
    if not (STUDIO_BIN / "label-studio").exists():
        pytest.skip(f"no Label Studio in {STUDIO_BIN}; `make e2e` installs it")
    made = Studio(tmp_path_factory.mktemp("studio"), STUDIO_BIN, Path(sys.executable), ports=(0, 0))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def browser():
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine; `make e2e` says how to get one")
    sync_api = pytest.importorskip("playwright.sync_api")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def sign_in(browser):
    """Opens a page of a Label Studio as its user, once for each; it goes to no other host but the backend's."""
    pages = {}

    def page_of(studio):
        if studio.url not in pages:
            context = browser.new_context(
                viewport={"width": 1600, "height": 900},
                http_credentials=dict(zip(("username", "password"), studio.backend_login, strict=True)),
            )
            home = (studio.url, studio.backend_url, "data:", "blob:")
            context.route("**/*", lambda r: r.continue_() if r.request.url.startswith(home) else r.abort())
            page = context.new_page()
            page.goto(f"{studio.url}/user/login/")
            page.fill("input[name=email]", USER)
            page.fill("input[name=password]", PASSWORD)
            page.press("input[name=password]", "Enter")
            page.wait_for_load_state()
            page.evaluate("localStorage.setItem('autoAnnotation', 'true')")
            page.evaluate("localStorage.setItem('autoAcceptSuggestions', 'false')")
            pages[studio.url] = page
        return pages[studio.url]

    return page_of


@pytest.fixture(scope="session")
def page(studio, sign_in):
    return sign_in(studio)


@pytest.fixture(scope="session")
def engine():
    """What the backend has, in this process."""
    return Engine.from_weights("starter", profile="fast")


@pytest.fixture(scope="session")
def decode(tmp_path_factory):
    """Label Studio's own decoder, from its own environment: RLE and size -> (H, W) bool."""

    def run(encoded, width, height):
        folder = tmp_path_factory.mktemp("rle")
        (folder / "in.json").write_text(json.dumps(encoded))
        code = (
            "import json, sys, numpy as np; from label_studio_sdk.converter.brush import decode_rle; "
            f"np.save('{folder}/out.npy', np.array(decode_rle(json.load(open('{folder}/in.json'))), np.uint8))"
        )
        subprocess.run([str(STUDIO_BIN / "python"), "-c", code], check=True, cwd=folder)
        return np.load(folder / "out.npy").reshape(height, width, 4)[..., 3] > 0

    return run
