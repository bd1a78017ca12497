import numpy as np
import pytest
from scipy import ndimage
from skimage import data

from tests.training.conftest import TINY_RUN
from training.data.sources import open_images
from training.loop.config import parse_config
from training.loop.regions import colour_region
from training.loop.samples import SampleSet


def flag():
    """Three stripes, of 40, 20 and 60 columns, and in the first a hole of the second's colour."""
    image = np.zeros((90, 120, 3), np.uint8)
    image[:, :40], image[:, 40:60], image[:, 60:] = (200, 40, 40), (40, 180, 60), (40, 60, 220)
    image[30:50, 10:30] = (40, 180, 60)
    return image


def drawn(image, seeds, least=0.01, valid=None):
    valid = np.ones(image.shape[:2], bool) if valid is None else valid
    return [colour_region(image, valid, least, np.random.default_rng(seed)) for seed in range(seeds)]


def test_regions_are_connected_and_of_one_colour():
    image, found, regions = flag(), {}, drawn(flag(), 80)
    for region in regions:
        assert ndimage.label(region)[1] == 1
        inner = ndimage.binary_erosion(region, iterations=4)
        colours = {tuple(colour) for colour in image[inner].tolist()}
        if len(colours) == 1:  # several are taken for one where the palette happens to lack one
            found.setdefault(colours.pop(), []).append(region)
    assert sum(map(len, found.values())) > 0.7 * len(regions)
    assert len(found) == 3
    reds = [region for region in found[200, 40, 40] if region.sum() > 2000]
    assert reds
    assert all(not region[35:45, 15:25].any() for region in reds)  # with their hole


def test_sizes_are_as_asked_and_without_a_region_there_is_none():
    photo = data.astronaut()[::2, ::2]
    for least in (0.001, 0.05):
        shares = [region.mean() for region in drawn(photo, 60, least) if region is not None]
        assert len(shares) > 40
        assert min(shares) >= least
        assert max(shares) <= 0.5
    assert min(region.mean() for region in drawn(photo, 60, 0.001)) < 0.01
    plain = np.full((50, 60, 3), 90, np.uint8)
    assert drawn(plain, 5) == [None] * 5  # it would be the whole
    assert drawn(flag(), 5, least=0.9) == [None] * 5


def test_regions_stay_where_they_may_be():
    valid = np.zeros((90, 120), bool)
    valid[:, 70:100] = True
    regions = drawn(flag(), 20, valid=valid)
    assert all((region <= valid).all() for region in regions if region is not None)
    assert any(region is not None for region in regions)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_a_share_of_the_samples_are_regions_that_begin_with_a_mask(shard_root, share):
    config = {**TINY_RUN, "data": {"shards": ["tiny.zip"], "regions": share}, "points": {"box": 1.0}}
    samples = SampleSet(open_images(shard_root, ["tiny.zip"]), parse_config(config))
    made = [samples.sample(n) for n in range(120)]
    begun = [sample for sample in made if sample.previous is not None]
    assert len(begun) / len(made) == pytest.approx(share, abs=0.13)
    assert all((sample.box < 0).all() for sample in begun)
    assert all((sample.box >= 0).all() for sample in made if sample.previous is None)
    for sample in begun:
        mask = sample.previous > 127
        assert (mask & (sample.target == 1)).sum() > 0.2 * (mask | (sample.target == 1)).sum()
    again = SampleSet(samples.images, parse_config(config)).sample(7)
    np.testing.assert_array_equal(again.target, made[7].target)
