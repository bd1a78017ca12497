import tempfile
from pathlib import Path

import pytest

from icmformer.errors import ConfigError
from icmformer.settings import Settings


def test_defaults_without_variables():
    settings = Settings.from_environment({})
    assert (settings.weights, settings.profile, settings.device) == ("starter", "fast", "auto")


def test_variables_are_read():
    settings = Settings.from_environment(
        {
            "ICMFORMER_WEIGHTS_PATH": "/a:/b",
            "ICMFORMER_MAX_PIXELS": "1000",
            "XDG_CACHE_HOME": "/c",
            "ICMFORMER_THREADS": "3",
        }
    )
    assert settings.weights_path == (Path("/a"), Path("/b"))
    assert (settings.max_pixels, settings.cache_dir, settings.threads) == (1000, Path("/c/icmformer"), 3)


def test_a_user_without_a_home_gets_a_temporary_cache(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert Settings.from_environment({}).cache_dir == Path(tempfile.gettempdir()) / "icmformer"


@pytest.mark.parametrize("value", ["many", "-1", "1e6", "999999999999"])
def test_a_bad_number_names_its_variable(value):
    with pytest.raises(ConfigError, match="ICMFORMER_MAX_PIXELS"):
        Settings.from_environment({"ICMFORMER_MAX_PIXELS": value})
