"""The zoo: its entries, and `icmformer weights fetch` against a server that keeps, breaks or cuts what it promises."""

import contextlib
import hashlib
import http.server
import json
import re
import threading

import pytest
import torch

from icmformer import weights
from icmformer.errors import WeightsError
from icmformer.models import VARIANTS, build_network
from icmformer.weights import zoo
from tests.commands import run_module
from tests.conftest import ROOT
from training.data.download import SOURCES
from training.loop.initial_weights import starting_network

TINY = "simpleclick_vit_tiny224"


def test_entries_are_complete():
    assert len({entry.name for entry in zoo.ZOO}) == len(zoo.ZOO) > 10
    for entry in zoo.ZOO:
        assert re.fullmatch(r"[\w.]+", entry.name)
        assert entry.url.startswith("https://")
        assert entry.what
        assert entry.licence
        assert entry.networks
        assert set(entry.networks) <= set(VARIANTS)
        assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}", entry.sha256)
        assert entry.sha256 is None or entry.size
        assert zoo.find(entry.name) is entry


def test_the_backbones_of_the_list_of_downloads_are_in_it():
    listed = {source.url for source in SOURCES["backbones to begin with"]}
    assert listed <= {entry.url for entry in zoo.ZOO}


def test_the_table_of_licences_has_each_backbones():
    text = (ROOT / "docs" / "training.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|") and line.count("|") > 3]
    for entry in zoo.ZOO:
        if entry.use == "start":
            family = re.match("MAE|DINOv2|DINO|AugReg|Swin", entry.what)[0]
            (row,) = [row for row in rows if row.startswith(f"| {family} |")]
            assert entry.licence.partition(" (")[0] in row, entry.name


def test_it_is_listed_for_people_and_for_programs():
    told = run_module("icmformer", "weights", "zoo").stdout
    entries = json.loads(run_module("icmformer", "weights", "zoo", "--json").stdout)
    assert [entry["name"] for entry in entries] == [entry.name for entry in zoo.ZOO]
    for entry in entries:
        assert entry["name"] in told
        assert entry["url"] in told
        assert (entry["sha256"] or "no sha256 is known") in told
        assert (entry["figures"] or "") in told
    assert "never published" in told


class Shelf(http.server.BaseHTTPRequestHandler):
    """Serves the server's files; `cut` promises more bytes than it sends, `endless` promises no number of them."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = self.path.lstrip("/")
        self.server.asked.append(name)
        kind, _, file = name.partition("/")
        content = self.server.files[file]
        self.send_response(200)
        if kind != "endless":
            self.send_header("Content-Length", str(len(content) + 1000 * (kind == "cut")))
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # of who has read enough
            self.wfile.write(content)
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file to serve in the layout of SimpleClick's, and one of a backbone."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    state = build_network(TINY).state_dict()
    torch.save({"state_dict": state}, folder / "click.pth")
    torch.save({k.removeprefix("backbone."): v for k, v in state.items() if "backbone." in k}, folder / "start.pth")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def shelf(made, monkeypatch, tmp_path):
    """Starts the server; returns a function that puts a file into the zoo, and the cache's folder."""
    monkeypatch.setenv("ICMFORMER_CACHE_DIR", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shelf) as httpd:
        httpd.files, httpd.asked = made, []
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        thread.start()

        def put(file, kind="whole", **known):
            use = "serve" if file == "click.pth" else "start"
            url = f"http://127.0.0.1:{httpd.server_port}/{kind}/{file}"
            entry = zoo.Entry("mine", "a test's", use, (TINY,), "none", url, **known)
            monkeypatch.setattr(zoo, "ZOO", (entry,))
            return httpd.asked

        yield put, tmp_path / "cache" / "weights"
        httpd.shutdown()
        thread.join()


def fetch(*words):
    return run_module("icmformer", "weights", "fetch", *words)


def known_of(content):
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_the_right_file_is_kept_under_its_name_and_not_fetched_twice(shelf, made):
    put, folder = shelf
    asked = put("click.pth", **known_of(made["click.pth"]))
    for _ in range(2):
        done = fetch("mine")
        assert done.returncode == 0, done.stderr
        assert "size and sha256 as known" in done.stdout
        assert "--weights mine" in done.stdout
        assert [path.name for path in folder.iterdir()] == ["mine.pth"]
    assert len(asked) == 1
    assert (folder / "mine.pth").read_bytes() == made["click.pth"]
    assert weights.load("mine").config["family"] == "simpleclick-vit"
    (folder / "mine.pth").write_bytes(b"damaged")
    assert fetch("mine").returncode == 0
    assert (folder / "mine.pth").read_bytes() == made["click.pth"]


def test_a_backbone_starts_a_training_by_its_name(shelf, made):
    put, _ = shelf
    put("start.pth", **known_of(made["start.pth"]))
    done = fetch("mine")
    assert done.returncode == 0, done.stderr
    assert f"--start mine, for {TINY}" in done.stdout
    network, told = starting_network(TINY, "mine")
    assert "starts from mine" in told
    torch.manual_seed(0)
    assert torch.equal(network.backbone.pos_embed, build_network(TINY).backbone.pos_embed)


@pytest.mark.parametrize(
    ("kind", "wrong", "said"),
    [
        ("whole", {"sha256": "0" * 64}, "it was not kept"),
        ("whole", {"size": 1000}, "it is another file"),
        ("endless", {"size": 1000}, "more than 1,000 bytes"),
        ("endless", {"size": 10_000_000_000}, "ended after"),
        ("cut", {"size": None}, "IncompleteRead|ended after"),
    ],
    ids=["sum", "size", "longer", "shorter", "cut"],
)
def test_another_file_or_half_of_one_is_not_kept(shelf, made, kind, wrong, said):
    put, folder = shelf
    put("click.pth", kind, **(known_of(made["click.pth"]) | wrong))
    done = fetch("mine")
    assert done.returncode == 2
    assert re.search(said, done.stderr), done.stderr
    assert not any(folder.iterdir())


def test_a_page_instead_of_a_file_is_not_kept(shelf, made, monkeypatch):
    put, folder = shelf
    put("click.pth")
    monkeypatch.setitem(made, "click.pth", b"<html>Not found</html>")
    done = fetch("mine")
    assert done.returncode == 2
    assert "is no .pth file; it was not kept" in done.stderr
    assert not any(folder.iterdir())


def test_what_is_there_stays_where_a_fetch_fails(shelf, made):
    put, folder = shelf
    put("click.pth")
    assert fetch("mine").returncode == 0
    put("click.pth", "cut")
    assert fetch("mine").returncode == 2
    assert [path.name for path in folder.iterdir()] == ["mine.pth"]
    assert (folder / "mine.pth").read_bytes() == made["click.pth"]


def test_a_file_without_a_known_sum_says_so_and_tells_the_one_it_has(shelf, made):
    put, _ = shelf
    put("click.pth")
    known = known_of(made["click.pth"])
    done = fetch("mine")
    assert done.returncode == 0, done.stderr
    assert "NOT CHECKED" in done.stdout
    assert known["sha256"] in done.stdout
    assert f"{known['size']:,} bytes" in done.stdout
    assert "NOT CHECKED" not in fetch("mine", "--sha256", known["sha256"]).stdout
    assert fetch("mine", "--sha256", "0" * 64).returncode == 2


def test_a_known_sum_is_not_overruled(shelf, made):
    put, folder = shelf
    asked = put("click.pth", **known_of(made["click.pth"]))
    done = fetch("mine", "--sha256", "0" * 64)
    assert done.returncode == 2
    assert "nothing was fetched" in done.stderr
    assert not asked
    assert not folder.exists()


def test_an_address_is_fetched_as_ever(shelf, made):
    put, folder = shelf
    put("click.pth")
    url = zoo.ZOO[0].url
    done = fetch(url)
    assert done.returncode == 0, done.stderr
    assert "--weights click" in done.stdout
    assert known_of(made["click.pth"])["sha256"] in done.stdout
    assert [path.name for path in folder.iterdir()] == ["click.pth"]


def test_what_has_no_address_is_told_how_to_get(shelf):
    done = fetch("unheard_of")
    assert done.returncode == 2
    assert "not in the zoo" in done.stderr


@pytest.mark.parametrize("name", ["cocolvis_vit_base", "sbd_vit_huge"])
def test_what_must_be_downloaded_by_hand_is_told_how(name):
    done = fetch(name)
    assert done.returncode == 2
    assert "by hand from https://drive.google.com/drive/folders/" in done.stderr
    command = re.search(r"icmformer (weights convert (\S+) -o (\S+) --store fp16)", done.stderr)
    assert command[2] == f"{name}.pth"


def test_a_second_head_for_edges_is_left_out(tmp_path):
    """U-CFR's networks have one beside SimpleClick's layout."""
    torch.manual_seed(0)
    state = build_network(TINY).state_dict()
    edges = {f"edge_{name}": torch.randn_like(value) for name, value in state.items() if name.startswith("head.")}
    assert edges
    torch.save({"state_dict": {**state, **edges}}, tmp_path / "two.pth")
    found = weights.load(tmp_path / "two.pth").state_dict
    assert set(found) == set(state)
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_a_backbone_is_refused_as_weights_with_what_it_is_for(tmp_path):
    (tmp_path / "b.npz").write_bytes(b"PK")
    torch.save({"model": {"pos_embed": torch.zeros(1)}}, tmp_path / "mae.pth")
    for name in ("b.npz", "mae.pth"):
        with pytest.raises(WeightsError, match="start a training"):
            weights.load(tmp_path / name)
