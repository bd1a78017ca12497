"""Intervals of mean clicks against scipy, and how often they hold the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from icmformer.serving.click_intervals import LEAST_ANNOTATIONS, MeanClicks, difference, student_quantile


@pytest.mark.parametrize("degrees", [1, 2, 4, 9, 30, 500, 10_000])
def test_students_t_is_scipys(degrees):
    assert student_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-6)


def annotated(generator, number, mean_more, spread, sizes="alike"):
    """Clicks and annotations: hard photos and easy ones, in each several masks."""
    if sizes == "alike":
        counts = 1 + generator.poisson(3, number)
    else:
        counts = np.ceil(generator.lognormal(1, 1, number)).astype(int)
    hard = np.repeat(mean_more * generator.gamma(1 / spread, spread, number), counts)
    return 1 + generator.poisson(hard * generator.gamma(2, 0.5, len(hard))), np.repeat(np.arange(number), counts)


def test_with_one_mask_an_annotation_the_error_is_that_of_a_mean():
    """The jackknife's is then the textbook's, s / sqrt(n)."""
    clicks = [1, 1, 2, 5, 3, 1, 1, 2]
    found = MeanClicks.of(clicks, range(8))
    assert found.error == pytest.approx(stats.sem(clicks))
    more = np.mean(clicks) - 1
    reach = stats.t.ppf(0.975, 7) * stats.sem(clicks) / more
    assert found.interval == pytest.approx((1 + more / math.exp(reach), 1 + more * math.exp(reach)), rel=1e-6)


def test_copies_of_a_mask_within_an_annotation_tell_nothing_new():
    clicks = [1, 1, 2, 5, 3, 1]
    once, often = MeanClicks.of(clicks, range(6)), MeanClicks.of(np.repeat(clicks, 50), np.repeat(np.arange(6), 50))
    assert often.interval == pytest.approx(once.interval)


def test_many_annotations_give_scipys_bootstrap():
    """Of whole annotations: BCa intervals, which make up for skewness, too."""
    generator = np.random.default_rng(5)
    samples = [annotated(generator, 250, more, 0.5) for more in (1.0, 0.8)]
    means = [MeanClicks.of(*sample) for sample in samples]
    sums = [np.array([np.bincount(a, c), np.bincount(a)]) for c, a in samples]

    def mean(of_clicks, counts, axis):
        return of_clicks.sum(axis) / counts.sum(axis)

    for (of_clicks, counts), found in zip(sums, means, strict=True):
        theirs = stats.bootstrap((of_clicks, counts), mean, paired=True, rng=np.random.default_rng(0))
        theirs = theirs.confidence_interval
        assert found.interval == pytest.approx((theirs.low, theirs.high), abs=0.1 * (theirs.high - theirs.low))
    draws = [s[:, np.random.default_rng(n).integers(0, 250, (9999, 250))].sum(-1) for n, s in enumerate(sums)]
    theirs = np.quantile(draws[1][0] / draws[1][1] - draws[0][0] / draws[0][1], [0.025, 0.975])
    assert difference(*means).interval == pytest.approx(tuple(theirs), abs=0.1 * (theirs[1] - theirs[0]))


def test_versions_within_the_same_annotations_are_compared_within_them():
    """On photos that are hard for both, their difference is surer than that of two samples of photos."""
    generator = np.random.default_rng(1)
    hard = generator.gamma(1, 3, 60)
    before, after = 2 + generator.poisson(hard), 1 + generator.poisson(hard)
    within = difference(MeanClicks.of(before, range(60)), MeanClicks.of(after, range(60)))
    apart = difference(MeanClicks.of(before, range(60)), MeanClicks.of(after, range(60, 120)))
    assert within.mean == apart.mean == pytest.approx(np.mean(after) - np.mean(before))
    assert np.diff(within.interval) < 0.7 * np.diff(apart.interval)
    paired = stats.ttest_rel(after, before).confidence_interval()
    assert np.diff(within.interval) == pytest.approx(paired.high - paired.low, rel=0.3)


def test_verdicts():
    few, many = [1, 1, 2] * 20, [3, 4, 4] * 20
    one, other = MeanClicks.of(few, range(60)), MeanClicks.of(many, range(60, 120))
    assert difference(one, other).verdict == "more"
    assert difference(other, one).verdict == "fewer"
    assert difference(one, MeanClicks.of(few, range(60, 120))).verdict == "not told apart"
    for number in (LEAST_ANNOTATIONS - 1, LEAST_ANNOTATIONS):
        found = difference(MeanClicks.of(many[:number], range(number)), one)
        assert (found.few, found.verdict) == ((True, "not told apart"), (False, "fewer"))[number == LEAST_ANNOTATIONS]
        assert found.interval[1] < 0
    found = difference(MeanClicks.of(few[:4], range(4)), one)
    assert (found.interval, found.few, found.verdict) == (None, True, "not told apart")


def test_without_a_second_click_the_mean_is_not_taken_for_sure():
    """Its upper end is the exact one of a share, of which none was seen."""
    low, high = MeanClicks.of([1] * 40, np.repeat(np.arange(20), 2)).interval
    assert low == 1
    assert high == pytest.approx(1 + stats.binomtest(0, 20).proportion_ci(0.95).high, rel=1e-9)


@pytest.mark.parametrize("clicks", [[1] * 5000 + [90, 1, 1, 1], [90] * 5000 + [1, 2, 1, 1]])
def test_one_annotation_with_nearly_all_masks_says_little(clicks):
    low, high = MeanClicks.of(clicks, [0] * 5000 + [1, 2, 3, 4]).interval
    assert 1 <= low < high <= 200


# Annotations of either version, clicks beyond the first, how unlike photos are, and whether they hold as many masks.
SETTINGS = [
    (before, after, more, spread, sizes)
    for before, after in ((10, 10), (10, 40), (200, 10), (20, 200), (40, 40))
    for more, spread in ((0.8, 1.0), (0.25, 0.3))
    for sizes in ("alike", "unlike")
]


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_intervals_hold_the_truth_about_as_often_as_they_say(setting):
    before, after, more, spread, sizes = setting
    generator = np.random.default_rng(7)
    held, wrong, held_one, runs = 0, 0, 0, 2000
    for run in range(runs):
        gain = 0.7 if run % 2 else 1.0
        old = MeanClicks.of(*annotated(generator, before, more, spread, sizes))
        clicks, annotations = annotated(generator, after, more * gain, spread, sizes)
        new = MeanClicks.of(clicks, annotations + before)
        found = difference(old, new)
        held += found.interval[0] <= more * gain - more <= found.interval[1]
        wrong += gain == 1 and found.verdict != "not told apart"
        held_one += new.interval[0] <= 1 + more * gain <= new.interval[1]
    print(f"{setting}: difference {held / runs:.3f}, mean {held_one / runs:.3f}, wrong {2 * wrong / runs:.3f}")
    assert held / runs > 0.91  # the standard error of a share of 0.95 in 2000 runs is 0.005
    assert held_one / runs > 0.89
    assert 2 * wrong / runs < 0.095


@pytest.mark.slow
def test_intervals_within_annotations_hold_the_truth():
    """Each annotation holds masks of both versions, as around a switch."""
    generator = np.random.default_rng(8)
    held, runs = 0, 2000
    for _ in range(runs):
        hard = generator.gamma(1, 1, 30)
        photos = np.repeat(np.arange(30), 3)
        old, new = (MeanClicks.of(1 + generator.poisson(by * hard[photos]), photos) for by in (1.0, 0.8))
        low, high = difference(old, new).interval
        held += low <= -0.2 <= high
    print(f"within annotations: {held / runs:.3f}")
    assert 0.92 < held / runs < 0.985
