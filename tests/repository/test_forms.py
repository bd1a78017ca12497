"""Issue forms, the pull request's template and CITATION.cff: right by their schemas, and they ask for what helps."""

import re

import pytest

from icmformer.version import __version__
from tests.conftest import ROOT
from tests.docs.test_links import anchors
from tests.repository.checkers import fits, read, tracked

FOLDER = ".github/ISSUE_TEMPLATE"
FORMS = sorted(f"{FOLDER}/{path.name}" for path in (ROOT / FOLDER).glob("*.yml") if path.name != "config.yml")
REPOSITORY = "https://github.com/icmformer/icmformer"
SITE = "https://icmformer.github.io/icmformer/"


def test_they_fit_their_schemas():
    fits("github-issue-forms", *FORMS)
    fits("github-issue-config", f"{FOLDER}/config.yml")
    fits("citation-file-format", "CITATION.cff")


def test_the_schema_refuses_a_form_that_github_would(tmp_path):
    (tmp_path / "form.yml").write_text("name: a\ndescription: b\nbody:\n- type: textbox\n  attributes: {label: c}\n")
    with pytest.raises(AssertionError, match="textbox"):
        fits("github-issue-forms", tmp_path / "form.yml")


@pytest.mark.parametrize("name", FORMS)
def test_a_form_holds_to_githubs_other_rules(name):
    """Which are in GitHub's documentation and not in the schema."""
    fields = [field for field in read(name)["body"] if field["type"] != "markdown"]
    assert fields
    ids = [field["id"] for field in fields]
    labels = [field["attributes"]["label"] for field in fields]
    assert len(set(ids)) == len(ids)
    assert len(set(labels)) == len(labels)
    for field in fields:
        options = field["attributes"].get("options", [])
        words = [option if isinstance(option, str) else option["label"] for option in options]
        assert len(set(words)) == len(words)
        assert "None" not in words


def field(name, key):
    (found,) = [field for field in read(f"{FOLDER}/{name}")["body"] if field.get("id") == key]
    return found


@pytest.mark.parametrize("name", ["bug.yml", "mask.yml"])
def test_what_doctor_prints_has_to_be_given(name):
    doctor = field(name, "doctor")
    assert "icmformer doctor" in doctor["attributes"]["label"]
    assert doctor["validations"] == {"required": "true"}


def test_a_wrong_mask_needs_photo_clicks_and_weights():
    for key in ("photo", "command", "mask", "weights"):
        assert field("mask.yml", key)["validations"] == {"required": "true"}
    assert "licence" in field("mask.yml", "photo")["attributes"]["description"]


def test_the_command_that_the_form_shows_is_one(workshop_photo, tmp_path, monkeypatch):
    from icmformer.cli.main import main

    monkeypatch.chdir(tmp_path)
    line = field("mask.yml", "command")["attributes"]["placeholder"]
    program, *words = line.split()
    assert program == "icmformer"
    assert main(words) == 0
    assert (tmp_path / "look.jpg").is_file()


@pytest.fixture
def workshop_photo(tmp_path, photo):
    from PIL import Image

    Image.fromarray(photo).save(tmp_path / "photo.jpg")


def test_security_goes_to_an_advisory_and_questions_to_the_documentation():
    config = read(f"{FOLDER}/config.yml")
    assert config["blank_issues_enabled"] == "false"
    assert [link["url"] for link in config["contact_links"]] == [f"{REPOSITORY}/security/advisories/new", SITE]


def test_the_labels_that_forms_set_are_in_the_checklist():
    listed = (ROOT / "docs/releasing.md").read_text()
    for name in FORMS:
        for label in read(name)["labels"]:
            assert f"`{label}`" in listed, label


def test_the_citation_is_of_this_version():
    assert read("CITATION.cff")["version"] == __version__


PLACES = [
    (name, found)
    for name in tracked()
    if name.endswith((".md", ".yml", ".toml", ".py", ".cff", "NOTICE", "LICENSE")) and not name.startswith("tests/")
    for found in re.findall(
        r"https://(?:github\.com|icmformer\.github\.io)/icmformer(?:/[\w./#?=-]*)?", (ROOT / name).read_text()
    )
]


def test_addresses_of_the_project_lead_to_what_is_there():
    """To pages that docs/ will give, to their headings, and to files of the repository."""
    assert len(PLACES) > 10
    for name, address in PLACES:
        path, _, anchor = address.removeprefix(SITE).partition("#")
        if found := re.fullmatch(rf"{REPOSITORY}/(?:blob|tree|edit)/main/([\w./-]+).*", address):
            assert (ROOT / found[1]).exists(), (name, address)
        if address.startswith(SITE):
            if "." in path.rpartition("/")[2]:
                assert (ROOT / "docs" / path).is_file(), (name, address)
                continue
            pages = [ROOT / "docs" / f"{path.rstrip('/') or 'README'}.md", ROOT / "docs" / path / "README.md"]
            page = next((page for page in pages if page.is_file()), None)
            assert page, (name, address)
            assert not anchor or anchor in anchors(page), (name, address)


def test_forms_that_others_link_to_exist():
    linked = [(name, found) for name, address in PLACES for found in re.findall(r"\?template=([\w.]+)", address)]
    assert linked
    for name, form in linked:
        assert f"{FOLDER}/{form}" in FORMS, (name, form)
