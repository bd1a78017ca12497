"""A positive click always gives a mask, at the image's very edge too."""

import numpy as np
import pytest
from skimage import data

from icmformer import Caches, Click, LoadedImage
from icmformer.inference.fallback import best_part
from icmformer.inference.probability_map import FullMap
from tests.engines import engine

PHOTOS = ("chelsea", "coffee", "astronaut")


def rim(height, width, inset):
    """Clicks so far from the corners and the middles of the edges, in continuous pixels."""
    rows, columns = (inset, height / 2, height - inset), (inset, width / 2, width - inset)
    return [Click(x, y) for y in rows for x in columns if (x, y) != (width / 2, height / 2)]


@pytest.mark.parametrize("profile", ["fast", "exact"])
def test_a_click_at_the_edge_finds_what_is_there(profile):
    """The starter has met few disks that are cut off; drawn whole, it knows them."""
    starter, cut = engine(profile, of="starter"), engine(profile, of="starter", click_margin=0)
    missed = 0
    for name in PHOTOS:
        photo = LoadedImage.from_array(getattr(data, name)())
        for inset in (0.2, 1):
            for click in rim(*photo.pixels.shape[:2], inset):
                result = starter.segment(photo, [click])
                assert result.mask.any()
                assert result.probability.max() > 0.49, (name, click)  # found, not guessed
                missed += cut.segment(photo, [click]).probability.max() <= 0.49
    assert missed > 0  # where the disk is cut off


def test_a_margin_moves_only_clicks_that_are_near_the_edge_of_the_crop():
    photo = LoadedImage.from_array(data.chelsea())
    starter, cut = engine(of="starter"), engine(of="starter", click_margin=0, caches=Caches())
    clicks = [Click(170.5, 120.5), Click(250.5, 60.5, False)]
    assert starter.segment(photo, clicks) == cut.segment(photo, clicks)
    assert starter.segment(photo, [Click(1, 1)]) != cut.segment(photo, [Click(1, 1)])


def bump(height=60, width=80, middle=(30, 40), top=0.4, spread=8.0):
    rows, columns = np.mgrid[:height, :width]
    squares = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2
    return (top * np.exp(-squares / (2 * spread**2))).astype(np.float32)


def test_the_likeliest_part_under_the_click():
    found = np.maximum(bump(), bump(middle=(5, 5), spread=3))
    mask = best_part(FullMap(found), [Click(40.5, 30.5)], 60, 80).to_mask()
    np.testing.assert_array_equal(mask, bump() > 0.2)  # half of what is under the click, and not the other part
    both = best_part(FullMap(found), [Click(40.5, 30.5), Click(5.5, 5.5)], 60, 80).to_mask()
    np.testing.assert_array_equal(both, found > 0.2)


def test_a_negative_click_is_not_in_it():
    negative = Click(47.5, 30.5, False)
    assert bump()[30, 47] > 0.2
    mask = best_part(FullMap(bump()), [Click(40.5, 30.5), negative], 60, 80).to_mask()
    assert mask[30, 40]
    assert not mask[30, 47]
    # where more speaks against it than for it
    mask = best_part(FullMap(bump()), [negative, Click(48.5, 30.5)], 60, 80).to_mask()
    assert mask.sum() == mask[30, 48] == 1


def test_where_nothing_at_all_is_found_it_is_a_spot():
    mask = best_part(FullMap(np.zeros((200, 400), np.float32)), [Click(100.5, 50.5), Click(0, 200)], 200, 400).to_mask()
    assert mask[50, 100]
    assert mask[199, 0]
    assert 40 < mask.sum() < 100


def test_the_engine_replies_with_it():
    """And goes on from what the network said, not from the guess."""
    photo = LoadedImage.from_array(data.chelsea())
    plain = engine(of="starter")
    expected = plain.segment(photo, [Click(170.5, 120.5), Click(60.5, 60.5, False)])
    strict = engine(of="starter", threshold=0.999999)
    guessed = strict.segment(photo, [Click(170.5, 120.5)])
    assert guessed.mask[120, 170]
    assert guessed.score == 0
    assert guessed.mask.mean() < 0.9
    later = strict.segment(photo, [Click(170.5, 120.5), Click(60.5, 60.5, False)])
    np.testing.assert_array_equal(later.probability, expected.probability)
    assert not strict.segment(photo, [Click(60.5, 60.5, False)]).mask.any()  # nothing is asked for
