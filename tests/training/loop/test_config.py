import pytest
import yaml

from icmformer.errors import ConfigError
from tests.conftest import ROOT
from training.loop.config import as_mapping, load_config, parse_config, stages

CONFIGS = ROOT / "training" / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_shipped_config_is_valid(path):
    config = load_config(path)
    assert config.samples > 0
    assert parse_config(as_mapping(config)) == config


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"sise": 3}, "unknown keys sise; known: network"),
        ({"serving": {"close_up": {"from_click": 3}}}, "close_up: missing keys min_crop_size, expansion_ratio"),
        ({"serving": {"close_up": 3}}, "close_up must be a mapping"),
        ({"size": "big"}, "config.size must be int"),
        ({"optim": {"betas": [0.9]}}, r"config.optim.betas must be a list of 2"),
        ({"optim": {"schedule": "linear"}}, "config.optim.schedule must be one of constant, cosine, step"),
        ({"data": {"set_weights": {"coco": "two"}}}, "config.data.set_weights.coco must be a number"),
        ({"network": "vgg"}, "registered"),
        ({"batch": 0}, "batch must be positive"),
        ({"batch": 6, "accumulate": 4}, "accumulate .4. must divide batch .6."),
        ({"optim": 3}, "config.optim must be a mapping"),
        ({"optim": {"lr": -1}}, "optim.lr must be positive"),
        ({"optim": {"betas": [0.9, 1.5]}}, "optim.betas must lie in"),
        ({"optim": {"lr_factors": {"head.": -1}}}, "optim.lr_factors.head. cannot be negative"),
        ({"points": {"negatives": [1, 1, 1]}}, "add up to 1"),
        ({"points": {"max_points": 0}}, "max_points starts at 1"),
        ({"max_rounds": -1}, "max_rounds cannot be negative"),
        ({"stages": [{"network": "icmformer_vit_tiny224"}]}, r"stages\[0\] cannot change network"),
        ({"stages": [{"data": {"shards": []}}]}, r"stages\[0\] cannot change data.shards"),
        ({"samples": 100, "stages": [{"until": 60}]}, "the last stage ends with the run"),
        ({"stages": [{"sise": 3}]}, r"stages\[0\]: unknown keys sise"),
        ({"stages": [{}, {}]}, r"stages\[0\].until must be a sample after 0, got None"),
        ({"stages": [{"until": 50}, {"until": 20}, {}]}, r"stages\[1\].until must be a sample after 50, got 20"),
        ({"stages": [{"optim": {"lr": "fast"}}]}, r"stages\[0\].optim.lr must be a number"),
    ],
)
def test_mistakes_name_their_key(raw, text):
    with pytest.raises(ConfigError, match=text):
        parse_config(raw)


def test_stages_override_what_they_name_and_nothing_else():
    config = parse_config(
        {
            "samples": 100,
            "optim": {"lr": 0.5, "clip": 2.0},
            "stages": [{"until": 40}, {"size": 448, "optim": {"lr": 0.1}}],
        }
    )
    first, second = stages(config)
    assert (first.start, first.until, second.start, second.until) == (0, 40, 40, 100)
    assert (first.config.size, first.config.optim.lr) == (224, 0.5)
    assert (second.config.size, second.config.optim.lr, second.config.optim.clip) == (448, 0.1, 2.0)
    only = stages(parse_config({"samples": 100}))
    assert [(s.start, s.until) for s in only] == [(0, 100)]


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(tmp_path / "bad.yaml")


def test_a_warm_up_longer_than_its_stage_is_refused():
    with pytest.raises(ConfigError, match="more than the 100 samples"):
        parse_config({"samples": 100, "optim": {"warmup_samples": 500}})


def test_numbers_may_be_written_without_a_point():
    assert parse_config(yaml.safe_load("{samples: 1000, optim: {lr: 1e-4}}")).optim.lr == 1e-4
    with pytest.raises(ConfigError, match="must be a number"):
        parse_config({"optim": {"lr": "fast"}})
