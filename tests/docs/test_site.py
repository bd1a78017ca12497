"""The documentation as a site: built strictly, it leads nowhere that is not there, and loads nothing from elsewhere."""

import inspect
import json
import os
import re
import subprocess
import sys
import threading
from functools import cached_property, partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

import icmformer
import icmformer.errors
import icmformer.weights
from tests.conftest import ROOT
from tests.docs.test_links import pages
from tests.e2e.conftest import CHROMIUM, FLAGS, PICTURES

pytest.importorskip("mkdocs", reason="needs MkDocs: pip install '.[docs]'")

HOME = "https://icmformer.github.io/icmformer/"
REPOSITORY = "https://github.com/icmformer/icmformer/"
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
}


class Page(HTMLParser):
    """What a page of the site has."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loaded, self.pictures, self.paragraphs = set(), [], [], [], []
        self.text = text
        self._within = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        has = dict(attrs)
        self.ids.add(has.get("id"))
        if tag == "a" and "href" in has:
            self.links.append(has["href"])
        if tag == "img":
            self.pictures.append((has["src"], has.get("alt")))
        if has.get(LOADED.get(tag)):
            self.loaded.append(has[LOADED[tag]])
        if tag == "link" and not {"canonical", "prev", "next"} & set(has["rel"].split()):
            self.loaded.append(has["href"])
        if tag in ("p", "code"):
            self._within.append(tag)
            if tag == "p":
                self.paragraphs.append("")

    def handle_endtag(self, tag):
        if self._within and self._within[-1] == tag:
            self._within.pop()

    def handle_data(self, data):
        if self._within == ["p"]:
            self.paragraphs[-1] += data


def build(folder, out):
    """Runs MkDocs as `make docs` does."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "icmformer"  # as in its address
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def site(folder):
    """Address below the site's root -> page."""
    return {str(path.relative_to(folder)): Page(path.read_text()) for path in folder.rglob("*.html")}


def file_of(target, page):
    """The file below the site's root that an address on a page means, and its anchor."""
    whole = urlsplit(urljoin(f"{HOME}{page}", target))
    place = unquote(whole.path).removeprefix(urlsplit(HOME).path)
    return f"{place}index.html" if not place or place.endswith("/") else place, unquote(whole.fragment)


def test_every_page_of_the_repository_is_on_the_site_with_a_link_to_edit_it(site):
    for name in pages():
        if name.startswith("docs/"):
            path = name.removeprefix("docs/").removesuffix(".md")
            made = f"{path.removesuffix('README')}index.html" if path.endswith("README") else f"{path}/index.html"
            assert f"{REPOSITORY}edit/main/{name}" in site[made].links


def test_links_and_anchors_lead_somewhere(site, folder):
    followed = 0
    for name, page in site.items():
        for target in page.links:
            if target.startswith(REPOSITORY):
                kind, _, path = target.removeprefix(REPOSITORY).partition("#")[0].partition("/main/")
                assert not kind or kind in ("blob", "tree", "edit"), target
                assert (ROOT / path).is_dir() if kind == "tree" else (ROOT / path).exists(), f"{name}: {target}"
            if re.match(r"(?!https://icmformer\.github\.io/)[a-z]+:", target):
                continue
            file, anchor = file_of(target, name)
            assert (folder / file).is_file(), f"{name}: {target}"
            assert not anchor or anchor.startswith("__") or anchor in site[file].ids, f"{name}: {target}"
            followed += 1
    assert followed > 1000


def test_nothing_is_loaded_from_another_host(site, folder):
    for name, page in site.items():
        assert page.loaded
        for target in page.loaded:
            file, _ = file_of(target, name)
            assert not urlsplit(target).netloc, f"{name}: {target}"
            assert (folder / file).is_file(), f"{name}: {target}"
    for sheet in folder.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text()), sheet


def test_every_picture_has_alternative_text(site):
    shown = {Path(source).name for page in site.values() for source, _ in page.pictures}
    assert {"cvat_help.webp", "prediction.png", "bench.png", "starter_worst.png", "chart_security.svg"} <= shown
    for name, page in site.items():
        for source, words in page.pictures:
            assert len(words or "") > 10, f"{name}: {source}"
    for name in pages():
        for words, source in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", (ROOT / name).read_text()):
            assert len(words) > 10, f"{name}: {source}"


def test_no_markup_is_left_in_the_text(site):
    for name, page in site.items():
        for text in page.paragraphs:
            assert not re.search(r"```|^\s*(?:[-*|] |\d+\. )|\]\(|^:::", text, re.M), f"{name}: {text}"


def test_addresses_of_the_documentation_in_other_files_are_on_the_site(site, folder):
    command = ["git", "grep", "-hoE", rf"{re.escape(HOME)}[][A-Za-z0-9_./#-]*", "--", ".", ":!tests", ":!mkdocs.yml"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for address in {text.rstrip(".") for text in found}:
        file, anchor = file_of(address, "")
        assert (folder / file).is_file(), address
        assert not anchor or anchor in site[file].ids, address


def members(made):
    """The public methods and properties of a class, by name."""
    return [
        name
        for name, value in (vars(made).items() if inspect.isclass(made) else ())
        if not name.startswith("_") and (inspect.isroutine(value) or isinstance(value, property | cached_property))
    ]


def test_the_reference_has_every_public_name(site):
    ids = set().union(*(page.ids for name, page in site.items() if name.startswith("api/")))
    missing, found = [], 0
    for module in (icmformer, icmformer.weights, icmformer.errors):
        for name in getattr(module, "__all__", vars(module)):
            made = getattr(module, name)
            if not (inspect.isclass(made) or inspect.isfunction(made)):
                continue
            homes = (f"{module.__name__}.{name}", f"{made.__module__}.{name}")
            for own in ("", *(f".{own}" for own in members(made))):
                missing += [] if any(f"{home}{own}" in ids for home in homes) else [f"{homes[0]}{own}"]
                found += 1
    assert missing == []
    assert found > 60
    assert "icmformer.__version__" in site["api/index.html"].text


def test_the_search_index_has_what_the_pages_say(folder):
    entries = json.loads((folder / "search" / "search_index.json").read_text())["docs"]
    for words, place in (
        ("the probability map of the last step", "glossary/#from-a-click-to-a-mask"),
        ("Nothing is promoted on fewer than ten", "learning_loop/#3-annotate"),
        ("Turns prompts into masks", "api/engine/#icmformer.Engine"),
        ("clicks to 90% IoU", "notebook/first_steps/#fine-tune-on-ten-photos"),
    ):
        assert any(place == entry["location"] and words in entry["text"] for entry in entries), words


SMALL = f"""
site_name: small
repo_url: {REPOSITORY}
edit_uri: edit/main/docs/
theme: mkdocs
exclude_docs: "*.py"
hooks: [{", ".join(str(ROOT / "docs/site" / name) for name in ("repository_links.py", "charts.py", "lists.py"))}]
markdown_extensions: [pymdownx.superfences, toc: {{permalink: true}}]
validation: {{anchors: warn}}
"""


@pytest.fixture
def small(tmp_path):
    """Builds a site of one page beside some files: its HTML, or the text of the error."""
    (tmp_path / "mkdocs.yml").write_text(SMALL)
    (tmp_path / "docs" / "figures").mkdir(parents=True)
    (tmp_path / "tool").mkdir()
    for name in ("tool/there.py", "docs/figures/drawing.py", "picture.png"):
        (tmp_path / name).write_text("")

    def run(text, fails=False):
        (tmp_path / "docs" / "README.md").write_text(f"# A\n\n{text}\n")
        done = build(tmp_path, tmp_path / "built")
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else (tmp_path / "built" / "index.html").read_text()

    return run


def test_links_that_leave_the_site_go_to_the_repository(small):
    made = small(
        "[a\nfile](../tool/there.py#L3), [`code`](../tool), [script](figures/drawing.py), `[x](../no.py)`\n\n"
        "```text\n[y](../no.py)\n```"
    )
    assert {target for target in Page(made).links if target.startswith(f"{REPOSITORY}blob") or "tree" in target} == {
        f"{REPOSITORY}blob/main/tool/there.py#L3",
        f"{REPOSITORY}tree/main/tool",
        f"{REPOSITORY}blob/main/docs/figures/drawing.py",
    }
    assert "[x](../no.py)" in made
    assert "[y](../no.py)" in made


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[x](../tool/gone.py)", "there is no ../tool/gone.py"),
        ("[x](gone.md)", "there is no gone.md"),
        ("[x](../../etc)", "there is no ../../etc"),
        ("![x](../picture.png)", "the picture ../picture.png is not on the site"),
        ("[x](#gone)", "#gone"),
        ("```mermaid\nflowchart TD\n  a --> b\n```", "its chart has changed"),
    ],
)
def test_what_leads_nowhere_ends_the_build(small, text, told):
    assert told in small(text, fails=True)


def test_lists_come_out_as_github_shows_them(small):
    made = small("1. one:\n\n   ```sh\n   make\n   ```\n\n   more\n2. two\n3. three\n   - below")
    assert made.count("<ol>") == 1
    assert len(re.findall("<li>", made[made.index("<ol>") : made.rindex("</ol>")])) == 4
    assert "```" not in made


class Quiet(SimpleHTTPRequestHandler):
    """Says nothing of what it is asked."""

    def log_message(self, *_):
        pass


@pytest.fixture
def served(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/icmformer/"
    server.shutdown()
    server.server_close()


@pytest.mark.e2e
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (400, "light")])
def test_a_reader_searches_and_finds_and_asks_no_other_host(served, folder, site, width, scheme):
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine; `make e2e` says how to get one")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        asked, wrong = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("response", lambda reply: wrong.append(reply.url) if reply.status >= 400 else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(served)
        if width < 960:
            page.click("label[for=__search].md-header__button")
        page.focus("input.md-search__input")
        page.get_by_text("Type to start searching").wait_for(state="attached", timeout=20_000)
        page.locator("input.md-search__input").press_sequentially("previous mask")
        hit = page.locator("a.md-search-result__link", has_text="previous mask").first
        hit.wait_for(timeout=20_000)
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(500)  # until it has faded in, for who looks at the picture
        page.screenshot(path=PICTURES / f"site_search_{width}_{scheme}.png")
        hit.click()
        page.wait_for_url(re.compile(r"\?h="))
        page.locator("article mark").first.wait_for(timeout=20_000)
        for name in sorted(site) if width == 1400 and scheme == "light" else ["gallery/index.html"]:
            page.goto(served + name.removesuffix("index.html"))
            page.wait_for_load_state("networkidle")
            # nothing but tables, code and charts, which scroll on their own, is wider than the page
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, name
            assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)"), name
        browser.close()
    assert asked
    assert [url for url in asked if not url.startswith((served, "data:", "blob:"))] == []
    assert wrong == []
