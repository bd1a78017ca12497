"""What the gate makes of clicks before and after."""

import json

import numpy as np
import pytest

from icmformer.errors import TrainingError
from training.finetuning.gate import LEAST_GROUPS, compare, difference_interval, doubt
from training.finetuning.settings import FinetuneSettings
from training.finetuning.split import PlacedPhoto, Split


def parts(photos, groups=None, part="held_out"):
    """A split of as many photos, each a group of its own if none are given."""
    groups = range(photos) if groups is None else groups
    return Split(tuple(PlacedPhoto(n + 1, f"{n}.jpg", g, part, "", "", 100, 3) for n, g in enumerate(groups)))


def compared(differences, groups=None):
    """The comparison of clicks that differ by (photos, objects a photo)."""
    names = [[f"{n + 1:06}_{k}" for k in range(len(row))] for n, row in enumerate(differences)]
    flat = [name for row in names for name in row]
    before = dict.fromkeys(flat, 10)
    after = {name: 10 + int(d) for name, d in zip(flat, (d for row in differences for d in row), strict=True)}
    return compare(before, after, parts(len(differences), groups))


def realistic(rng, photos, gain, losses, alike=0.4):
    """Differences of one to five objects a photo: mostly 0, some of 1 to 5, few of 15; their photos and expectation.

    A share `losses` of those of 15 is losses. A share `alike` of a photo's objects has one and the same difference.
    """

    def draw(size):
        small = rng.integers(1, 6, size) * rng.choice([-1, 1], size)
        kind = rng.random(size)
        return (
            np.where(kind < 0.6, 0, np.where(kind < 0.97, small, rng.choice([-15, 15], size, p=[1 - losses, losses])))
            + 0.0
        )

    places = np.repeat(np.arange(photos), rng.integers(1, 6, photos))
    own, shared = draw(len(places)), draw(photos)[places]
    differences = np.where(rng.random(len(places)) < alike, shared, own)
    helped = rng.random(len(places)) < abs(gain) / 4
    truth = gain + 0.03 * 15 * (2 * losses - 1)
    return np.where(helped, differences + 4 * np.sign(gain), differences), places, truth


def covered(photos, gain, losses, runs):
    """Shares of simulated evaluations whose interval holds the true difference, and that claim more gain than that."""
    rng = np.random.default_rng(photos)
    inside = wrongly = 0
    for _ in range(runs):
        differences, groups, truth = realistic(rng, photos, gain, losses)
        low, high = difference_interval(differences, groups)
        inside += low <= truth <= high
        wrongly += high < truth
    return inside / runs, wrongly / runs


@pytest.mark.parametrize(("gain", "losses"), [(0, 0.5), (-1, 0.2)])
@pytest.mark.parametrize("photos", [5, 10, 30])
def test_the_interval_holds_the_true_difference(photos, gain, losses):
    inside, wrongly = covered(photos, gain, losses, 150)
    assert (0.85 if photos < LEAST_GROUPS else 0.9) <= inside < 1  # never wrong would tell nothing
    assert wrongly <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize(("gain", "losses"), [(0, 0.5), (-1, 0.5), (-1, 0.2), (-0.27, 0.8)])
@pytest.mark.parametrize("photos", [5, 10, 30, 100])
def test_the_interval_holds_the_true_difference_in_many_simulations(photos, gain, losses):
    inside, wrongly = covered(photos, gain, losses, 600)  # the last case: no gain in truth, but rare large losses
    assert (0.87 if photos < LEAST_GROUPS else 0.91) <= inside < 0.98
    assert photos < LEAST_GROUPS or wrongly <= 0.07


def test_objects_of_one_photo_are_no_independent_evidence():
    rng = np.random.default_rng(0)
    by_photo = rng.integers(-3, 4, 12).astype(float)
    differences, groups = np.repeat(by_photo, 40), np.repeat(np.arange(12), 40)
    low, high = difference_interval(differences, groups)
    alone = difference_interval(by_photo, np.arange(12))
    assert (low, high) == pytest.approx(alone)
    naive = difference_interval(differences, np.arange(480))
    assert naive[1] - naive[0] < (high - low) / 4


def test_the_interval_is_that_of_student_where_means_are_normal():
    rng = np.random.default_rng(1)
    ratios = []
    for _ in range(50):
        values = rng.normal(0, 1, 12)
        low, high = difference_interval(values, np.arange(12))
        ratios.append((high - low) / (2 * 2.201 * values.std(ddof=1) / np.sqrt(12)))  # t of 11 degrees, by a table
    assert np.mean(ratios) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([[-3, -2], [-4, 0]] * 10, "fewer"),
        ([[3, 2], [4, 0]] * 10, "more"),
        ([[0, 0]] * 20, "not told apart"),
        ([[-1, 1], [1, -1]] * 10, "not told apart"),
        ([[-15]] + [[0]] * 30, "not told apart"),  # one lucky object
        ([[-3, -2]] * (LEAST_GROUPS - 1), "not told apart"),  # too few, however clear
        ([[-3, -2]] * LEAST_GROUPS, "fewer"),
    ],
)
def test_verdicts(differences, verdict, tmp_path):
    result = compared(differences)
    assert result.verdict == verdict
    assert result.promotes == (verdict == "fewer")
    flat = [d for row in differences for d in row]
    assert (result.before, result.objects, result.photos, result.groups) == (
        10,
        len(flat),
        len(differences),
        len(differences),
    )
    assert result.difference == pytest.approx(np.mean(flat))
    assert result.after == pytest.approx(10 + np.mean(flat))
    assert result.low <= result.difference <= result.high
    if not any(flat):
        assert (result.low, result.high) == (0, 0)
    result.write(tmp_path / "gate.json")
    known = json.loads((tmp_path / "gate.json").read_text())
    assert known["verdict"] == verdict
    assert (known["low"], known["high"]) == (result.low, result.high)
    assert f"{len(flat)} objects on {len(differences)} photos" in result.told


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ({}, {}, "0 of both, 0 of the old weights alone, 0 of the new"),
        ({"000001_1": 3}, {"000002_1": 3}, "0 of both, 1 of the old weights alone, 1 of the new"),
        ({"000001_1": 3, "000002_1": 4}, {"000002_1": 3}, "1 of both, 1 of the old weights alone, 0 of the new"),
        ({"000001_1": 3}, {"000001_1": 3, "000002_1": 1}, "1 of both, 0 of the old weights alone, 1 of the new"),
    ],
)
def test_evaluations_of_other_objects_are_not_compared(before, after, text):
    with pytest.raises(TrainingError, match=text):
        compare(before, after, parts(3))


def test_photos_of_one_group_count_as_one():
    differences = [[-2], [-4], [0], [-3]] * 10
    assert compared(differences).promotes
    grouped = compared(differences, [n % 3 for n in range(40)])
    assert not grouped.promotes
    assert (grouped.photos, grouped.groups) == (40, 3)
    assert "on 40 photos in 3 groups" in grouped.told
    one = compared(differences, [7] * 40)
    assert (one.low, one.high) == (-19, 19)
    assert not one.promotes


def test_from_few_photos_no_number_is_made_up():
    few = compared([[-1, 0], [2, -3]])
    assert "these are 2: annotate more" in few.advice
    assert "would show it" not in few.advice


def test_advice_asks_for_as_many_photos_as_show_the_gain():
    rng = np.random.default_rng(3)
    every = [[d] for d in rng.choice([-15, -3, -1, 0, 0, 1, 3, 10], 2000)]  # -0.6 in the mean
    few = compared(every[:40])
    assert not few.promotes
    assert few.difference < 0
    assert f"about {few.needed_photos} held-out photos would show it" in few.advice
    assert 40 < few.needed_photos < 2000
    spread = np.std([d for row in every[:40] for d in row])
    assert few.needed_photos == pytest.approx(1.2 * (1.96 * spread / few.difference) ** 2, rel=0.25)
    worse = compared([[-d for d in row] for row in every[:40]])
    assert worse.needed_photos is None
    assert "training has not helped" in worse.advice
    assert compared([[-3, -2]] * LEAST_GROUPS).advice == ""
    clear = compared([[-3, -2]] * 5)
    assert clear.needed_photos == LEAST_GROUPS
    assert f"fewer than {LEAST_GROUPS} independent ones" in clear.advice


def test_too_few_photos_are_told_before_the_training(tmp_path):
    settings = FinetuneSettings(annotations=tmp_path, out=tmp_path / "run", objects=50)
    assert doubt(parts(LEAST_GROUPS), settings) == ""
    trained = tuple(parts(46, range(100, 146), "train").photos)
    told = doubt(Split((*parts(4).photos, *trained)), settings)
    assert "4 photos are held out, and on fewer than 10 nothing is promoted" in told
    assert "--held-out 0.2" in told
    assert "annotate more" in doubt(parts(4), settings)
    few = FinetuneSettings(annotations=tmp_path, out=tmp_path / "run", objects=9)
    assert "--objects be more than 9" in doubt(parts(30), few)
