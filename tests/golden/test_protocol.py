"""The predictor, the simulated annotator and the figures against traces of the published code."""

import json

import numpy as np
import pytest

from tests.conftest import GOLDEN
from tests.golden.analytic import analytic_network
from training.evaluate import trace
from training.evaluation.noc import click_count

TRACES = json.loads((GOLDEN / "protocol" / "traces.json").read_text())
SAMPLES = np.load(GOLDEN / "protocol" / "samples.npz")
TABLE = json.loads((GOLDEN / "protocol" / "noc_table.json").read_text())


@pytest.mark.parametrize("expected", TRACES, ids=lambda t: f"{t['sample']}-{t['setting']}")
def test_trace_is_the_published_one(expected):
    number = expected["sample"]
    session = trace(
        analytic_network,
        SAMPLES[f"image_{number}"],
        SAMPLES[f"gt_{number}"],
        **{key: expected[key] for key in ("zoom_in", "flip", "threshold", "target_iou", "max_clicks")},
    )
    assert [list(click) for click in session.clicks] == expected["clicks"]
    assert [list(roi) for roi in session.rois] == expected["object_roi_after_each_click"]
    np.testing.assert_allclose(session.ious, expected["ious"], rtol=0, atol=1e-6)
    final = SAMPLES[f"final_prob_{number}_{expected['setting']}"].astype(np.float32)
    np.testing.assert_allclose(session.probability, final, rtol=0, atol=6e-4)  # the reference is kept in fp16


@pytest.mark.parametrize("index", range(len(TABLE["iou_thresholds"])))
def test_click_counts_are_the_published_ones(index):
    counted = click_count(TABLE["all_ious"], TABLE["iou_thresholds"][index], TABLE["max_clicks"])
    assert counted.noc == TABLE["noc"][index]
    assert counted.std == TABLE["noc_std"][index]
    assert counted.failures == TABLE["failures"][index]
