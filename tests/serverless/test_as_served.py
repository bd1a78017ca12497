"""The whole of GrabCut through the handler, with only what CVAT sends: how many clicks, and whether warmth matters."""

import itertools

import numpy as np
import pytest

from icmformer.weights import THRESHOLD
from tests.conftest import TRAINED
from tests.serverless.conftest import call
from training.evaluation.benchmarks import load_benchmark
from training.evaluation.noc import click_count
from training.evaluation.protocol import Stepwise, by_function, simulate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_grabcut_takes_the_protocols_clicks_and_a_cold_workers_masks_are_a_warm_ones(make_context, exact, shared):
    warm, cold = make_context(exact), make_context(exact, cold=True)
    served, ordered = [], []
    for item in load_benchmark("GrabCut", shared / "data" / "eval" / "GrabCut"):
        image, truth = item.load()
        asks = [by_function(lambda body, c=c: call(c, body)[1], image) for c in (warm, cold)]
        sessions = [simulate(ask, truth, THRESHOLD) for ask in asks]
        assert sessions[0].masks == sessions[1].masks, item.name
        served.append(sessions[0].ious)
        ordered.append(simulate(Stepwise(exact.predictor, image), truth, THRESHOLD).ious)
    assert len(served) == 50
    ours, theirs = click_count(served, 0.9, 20).noc, click_count(ordered, 0.9, 20).noc
    print(f"{TRAINED}: NoC@90 {ours:.3f} through the handler, {theirs:.3f} by the protocol")
    assert ours == pytest.approx(theirs, rel=0.05)
    kept = [facts["image_kept"] for _, _, facts in cold.logger.lines]
    assert not any(kept)
    assert sum(facts["image_kept"] for _, _, facts in warm.logger.lines) == len(kept) - 50
    assert np.mean([len(i) for i in itertools.chain(served)]) > 1
