"""The tables of settings in the docs against the settings that programs read."""

import re
from dataclasses import fields

import pytest

from icmformer.fetching.settings import CvatSettings
from icmformer.settings import Settings, variables
from ls_backend.settings import BackendSettings
from serverless.settings import FunctionSettings
from tests.conftest import ROOT

PAGES = {
    Settings: "settings.md",
    FunctionSettings: "cvat.md",
    CvatSettings: "cvat.md",
    BackendSettings: "label_studio.md",
}


def rows(page):
    """Variable -> its default, and the number of variables in its row, of the tables of a page."""
    found = {}
    for line in (ROOT / "docs" / page).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = re.findall(r"`([A-Za-z_]{4,})`", cells[0]) if line.startswith("| `") else []
        found |= dict.fromkeys(names, (cells[-1].strip("`").replace(",", ""), len(names)))
    return found


@pytest.mark.parametrize("settings", PAGES)
def test_every_variable_is_in_the_table_of_its_page(settings):
    own = set(variables(settings)) - (set(variables(Settings)) if settings is not Settings else set())
    assert own <= set(rows(PAGES[settings])) | {"all_proxy", "LABEL_STUDIO_HOST"}  # second names


@pytest.mark.parametrize("settings", PAGES)
def test_numbers_are_those_of_the_table(settings):
    told, compared = rows(PAGES[settings]), 0
    for field in fields(settings):
        name = field.metadata["names"][0]
        default, in_row = told.get(name, ("", 0))
        if in_row == 1 and type(field.default) is int:
            megabytes = name.endswith("_MB") and field.default >= 1 << 20
            assert default == str(field.default >> 20 if megabytes else field.default), name
            compared += 1
    assert compared > 3 or PAGES[settings] == "cvat.md"
