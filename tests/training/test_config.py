import pytest

from icmformer.errors import ConfigError
from tests.conftest import ROOT
from training.config import load_config, parse_config


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_config_is_valid(path):
    assert load_config(path).samples > 0


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"sise": 3}, "unknown keys sise; known: network"),
        ({"size": "big"}, "config.size must be int"),
        ({"optim": {"betas": [0.9]}}, r"config.optim.betas must be a list of 2"),
        ({"optim": {"schedule": "linear"}}, "config.optim.schedule must be one of constant, cosine, step"),
        ({"data": {"set_weights": {"coco": "two"}}}, "config.data.set_weights.coco must be a number"),
        ({"network": "vgg"}, "registered"),
        ({"batch": 0}, "batch must be positive"),
        ({"optim": 3}, "config.optim must be a mapping"),
    ],
)
def test_mistakes_name_their_key(raw, text):
    with pytest.raises(ConfigError, match=text):
        parse_config(raw)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(tmp_path / "bad.yaml")
