"""Metrics: what is told before anything happened, that counting costs nothing, and processes that are no more."""

import os
import subprocess
import sys

import pytest
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from icmformer import Engine
from icmformer.errors import ConfigError
from icmformer.inference.cache import ByteLRU, NullCache
from icmformer.serving.metrics import Metrics
from tests.conftest import ROOT, TINY


@pytest.fixture(scope="module")
def engine():
    return Engine.from_weights(TINY, runtime="torch")


def values(text):
    families = text_string_to_metric_families(text.decode())
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def test_errors_are_told_as_nought_before_the_first(engine):
    """A rate needs two samples: that of the first error would otherwise be none."""
    told = values(Metrics(engine, NullCache()).text())
    assert told["icmformer_errors_total", ("kind", "busy")] == 0
    assert told["icmformer_errors_total", ("kind", "internal error")] == 0


def test_stages_of_server_and_engine_are_apart(engine):
    metrics = Metrics(engine, NullCache())
    metrics.prediction("mask", {"fetch": 20.0, "segment": 100.0, "segment.decode": 90.0}, 3)
    told = values(metrics.text())
    assert told["icmformer_stage_seconds_sum", ("stage", "segment")] == pytest.approx(0.1)
    assert told["icmformer_network_seconds_sum", ("stage", "decode")] == pytest.approx(0.09)
    assert not [name for name in told if "segment." in str(name)]
    assert told["icmformer_request_clicks_sum",] == 3


def test_counters_of_caches_follow_the_caches(engine):
    cache = ByteLRU(100)
    metrics = Metrics(engine, cache)
    for _ in range(3):
        cache.get("nothing")
    assert values(metrics.text())["icmformer_cache_misses_total", ("cache", "images")] == 3
    cache.get("nothing")
    metrics.update()
    assert values(metrics.text())["icmformer_cache_misses_total", ("cache", "images")] == 4


def test_counting_that_fails_costs_nothing_and_is_told_once(engine, monkeypatch, caplog):
    metrics = Metrics(engine, ByteLRU(100))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Counter, "inc", full)
    metrics.answered("/", 200, 0.1)
    metrics.refused("busy")
    metrics.prediction("mask", {}, 1)
    metrics.update()
    assert [record.getMessage() for record in caplog.records if "No space left" in record.getMessage()] == [
        "some metrics are not counted: OSError(28, 'No space left on device')"
    ]


@pytest.mark.parametrize("folder", ["", "/proc/nothing/there"])
def test_a_folder_that_cannot_be_used_is_told(engine, monkeypatch, folder):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", folder)
    with pytest.raises(ConfigError, match="PROMETHEUS_MULTIPROC_DIR"):
        Metrics(engine, NullCache())


WORKER = f"""
from icmformer import Engine
from icmformer.inference.cache import NullCache
from icmformer.serving.metrics import Metrics
metrics = Metrics(Engine.from_weights({TINY!r}, runtime="torch"), NullCache())
metrics.waiting(7)
metrics.refused("busy")
print(metrics.text().decode())
"""


def test_who_is_no_more_waits_no_more_but_what_was_counted_stays(tmp_path):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"), "PYTHONPATH": str(ROOT)}
    for turn in (1, 2):
        done = subprocess.run(
            [sys.executable, "-c", WORKER], env=environment, capture_output=True, timeout=120, check=True
        )
        told = values(done.stdout)
        assert told["icmformer_waiting_requests",] == 7  # of the one that lives
        assert told["icmformer_errors_total", ("kind", "busy")] == turn
