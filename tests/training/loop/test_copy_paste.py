import numpy as np
import pytest
from skimage.measure import regionprops

from tests.training.conftest import TINY_RUN
from training.data.sources import open_images
from training.loop.augmentation import IGNORED, OTHER
from training.loop.config import parse_config
from training.loop.copy_paste import paste
from training.loop.samples import SampleSet

GREY, RED, BLUE = (128, 128, 128), (250, 0, 0), (0, 0, 250)


def scene():
    """A red object in the middle of a grey photo; the lowest rows are not labelled."""
    image, target = np.full((200, 200, 3), GREY, np.uint8), np.zeros((200, 200), np.uint8)
    image[60:140, 60:140], target[60:140, 60:140] = RED, 1
    target[180:] = IGNORED
    return image, target


def other():
    """A photo whose object is blue, twice as wide as high."""
    image, truth = np.full((90, 120, 3), GREY, np.uint8), np.zeros((90, 120), bool)
    truth[20:60, 30:110] = True
    image[truth] = BLUE
    return image, truth


def drawn(seeds=200, least=0.001):
    return [paste(*scene(), *other(), least, np.random.default_rng(seed)) for seed in range(seeds)]


def is_blue(image):
    return (image[..., 2].astype(int) - image[..., 0]) > 61  # more than half


def split(pairs):
    before = scene()[0]
    changed = [(image, cut) for image, cut in pairs if (image != before).any()]
    return [p for p in changed if is_target(*p)], [p for p in changed if not is_target(*p)]


def is_target(image, cut):
    return (is_blue(image) & (cut == 1)).sum() > (is_blue(image) & (cut == OTHER)).sum()


def test_the_pasted_object_is_where_the_target_says():
    targets, _ = split(drawn())
    assert 70 < len(targets) < 115  # half, but for those of which too little is seen
    for image, cut in targets:
        wrong = is_blue(image) != (cut == 1)
        assert wrong.sum() <= max(0.1 * (cut == 1).sum(), 60)  # the outline is soft
        assert (cut[(scene()[1] == 1) & (cut != 1)] == OTHER).all()


def test_in_front_of_a_target_it_covers_at_most_half():
    _, in_front = split(drawn())
    assert len(in_front) > 70
    before = scene()[1] == 1
    covered = [1 - (cut == 1).sum() / before.sum() for _, cut in in_front]
    assert max(covered) <= 0.5
    assert sum(share > 0.02 for share in covered) > 0.4 * len(covered)
    for image, cut in in_front:
        assert not (cut[~before] == 1).any()
        assert is_blue(image)[cut == 1].mean() < 0.03


def test_sizes_turns_and_places_vary_and_the_form_stays():
    targets, _ = split(drawn())
    whole = [regionprops((cut == 1).astype(int))[0] for _, cut in targets]
    whole = [p for p in whole if p.bbox[0] > 0 and p.bbox[2] < 180 and p.bbox[1] > 0 and p.bbox[3] < 200]
    longer = [p.axis_major_length for p in whole]
    assert min(longer) < 40
    assert max(longer) > 130
    ratios = [p.axis_major_length / p.axis_minor_length for p in whole]
    assert ratios == pytest.approx([2.0] * len(ratios), abs=0.15)
    steep = [abs(abs(np.rad2deg(p.orientation)) - 90) for p in whole]
    assert 15 < max(steep) < 27
    assert np.std([p.centroid for p in whole], axis=0).min() > 25


def test_nothing_is_pasted_where_it_would_not_be_seen_or_nothing_is_labelled():
    before = scene()
    assert all((cut[180:] == IGNORED).all() for _, cut in drawn())
    assert all((image[180:] == before[0][180:]).all() for image, _ in drawn())
    image, truth = other()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert paste(*before, image, np.zeros_like(truth), 0.001, rng)[0] is before[0]  # no object
        assert paste(*before, image, truth, 0.9, rng)[1] is before[1]  # none is as large


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_share_of_the_samples_shows_an_object_of_another_photo(shard_root, share):
    def samples(paste):
        config = {**TINY_RUN, "data": {"shards": ["tiny.zip"], "paste": paste}}
        return SampleSet(open_images(shard_root, ["tiny.zip"]), parse_config(config))

    plain, made = samples(0.0), samples(share)
    changed = [(plain.sample(n).target != made.sample(n).target).any() for n in range(100)]
    assert np.mean(changed) == pytest.approx(0.9 * share, abs=0.15)
    np.testing.assert_array_equal(samples(share).sample(7).image, made.sample(7).image)
