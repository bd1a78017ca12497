import os
from pathlib import Path

import pytest

from icmformer import weights
from icmformer.errors import WeightsError
from icmformer.settings import Settings


def test_names_are_searched_for(native, monkeypatch, tmp_path):
    monkeypatch.setenv("ICMFORMER_WEIGHTS_PATH", f"{tmp_path / 'nowhere'}{os.pathsep}{tmp_path}")
    assert weights.load("mine").path == native
    with pytest.raises(WeightsError, match=r"known: .*mine"):
        weights.load("yours")


def test_a_folder_in_the_working_folder_does_not_hide_the_weights_of_its_name(native, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    native.rename("starter")
    bundled, own = "starter", "mine"
    assert weights.load("starter").name == bundled
    for path in ("./starter", "starter/", str(tmp_path / "starter"), Path("starter")):
        assert weights.load(path).name == own
    Path("starter").rename("other")
    assert weights.load("other").name == own  # no weights of that name are known
    monkeypatch.setenv("ICMFORMER_WEIGHTS_PATH", str(tmp_path / "folder"))
    (tmp_path / "folder").mkdir()
    Path("other").rename("folder/starter")
    assert weights.load("starter").name == own  # which goes before the bundled ones


def test_settings_say_where_to_look_and_the_environment_then_does_not(native, monkeypatch, tmp_path, server):
    monkeypatch.setenv("ICMFORMER_BATCH", "no number")  # reading the environment would fail
    settings = Settings(weights_path=(tmp_path,), cache_dir=tmp_path / "cache")
    assert weights.load("mine", settings).path == native
    assert weights.locate("mine", settings) == weights.available(settings)["mine"] == native
    assert weights.search_path(settings)[:2] == [tmp_path, tmp_path / "cache" / "weights"]
    path = weights.fetch(f"{server[0]}/net.safetensors", settings=settings)
    assert path == tmp_path / "cache" / "weights" / "net.safetensors"
    assert weights.load("net", settings).path == path
    with pytest.raises(WeightsError, match=r"known: mine, net, starter"):
        weights.load("yours", settings)
