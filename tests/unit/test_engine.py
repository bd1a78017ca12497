"""The engine: pure replies, prompts and their errors, agreement with the protocol."""

import dataclasses
import threading

import numpy as np
import pytest
import torch

from icmformer import Box, Caches, CleanUp, Click, Engine, LoadedImage
from icmformer.errors import ConfigError, DeviceError, ImageError, PromptError, WeightsError
from icmformer.inference.cache import ByteLRU
from icmformer.inference.engine import expected_iou
from icmformer.inference.profiles import PROFILES
from tests.conftest import TINY
from training.evaluate import trace

CLICKS = [Click(200.5, 120.5), Click(150.5, 200.5, positive=False), Click(260.5, 160.5), Click(90.5, 60.5)]


def fresh(profile="exact", caches=None):
    return Engine.from_weights(TINY, profile=profile, caches=caches)


@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize("ordered", [True, False])
def test_warm_and_cold_replies_are_the_same_bits(photo, profile, ordered):
    warm = fresh(profile, Caches(ByteLRU(1 << 28), ByteLRU(1 << 28)))
    for count in range(1, len(CLICKS) + 1):
        warm.segment(photo, CLICKS[:count], ordered=ordered)
        warm.segment(photo, CLICKS[:count][::-1], ordered=ordered)
        cold = fresh(profile, Caches())
        assert warm.segment(photo, CLICKS[:count], ordered=ordered) == cold.segment(
            photo, CLICKS[:count], ordered=ordered
        )
    assert warm.caches.states.stats().hits
    assert warm.caches.features.stats().hits


def test_ordered_clicks_give_the_protocols_masks(photo, exact):
    truth = np.zeros(photo.shape[:2], np.int32)
    truth[60:220, 120:330] = 1
    network = exact.weights.build()
    played = trace(network, photo, truth, {"target_size": [224, 224]}, flip=True, target_iou=None, max_clicks=6)
    assert len(played.clicks) == 6
    result = exact.segment(photo, [Click(c + 0.5, r + 0.5, p) for r, c, p in played.clicks])
    np.testing.assert_array_equal(result.probability, played.probability)
    np.testing.assert_array_equal(result.mask, played.probability > 0.49)
    assert result.roi == played.rois[-1]


def test_the_order_between_the_kinds_matters_only_when_it_is_known(photo, exact):
    positive, negative = [c for c in CLICKS if c.positive], [c for c in CLICKS if not c.positive]
    shuffles = [positive + negative, negative + positive, CLICKS]
    replies = [exact.segment(photo, clicks, ordered=False) for clicks in shuffles]
    assert replies[0] == replies[1] == replies[2] == exact.segment(photo, positive + negative)
    assert exact.segment(photo, CLICKS) != replies[0]


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_clicks_fed_together_have_no_order_at_all(photo, passes):
    profile = dataclasses.replace(PROFILES["fast"], unordered_passes=passes)
    engine = fresh(profile, Caches())
    reply = engine.segment(photo, CLICKS, ordered=False)
    assert reply == engine.segment(photo, CLICKS[::-1], ordered=False)
    if passes == 1:
        assert reply.roi == (0, photo.shape[0] - 1, 0, photo.shape[1] - 1)


def test_one_more_click_costs_one_more_pass(photo):
    engine = fresh("exact", Caches(ByteLRU(1 << 28), ByteLRU(1 << 28)))
    passes = []
    decode = engine._runner._network.decode
    engine._runner._network.decode = lambda *args: passes.append(1) or decode(*args)
    for count in range(1, len(CLICKS) + 1):
        engine.segment(photo, CLICKS[:count])
        assert len(passes) == count
    engine.segment(photo, CLICKS)
    engine.segment(photo, CLICKS[:2])
    assert len(passes) == len(CLICKS)


def test_the_mirror_pass_happens_in_exact_and_not_in_fast(photo):
    widths = {}
    for profile in PROFILES:
        engine = fresh(profile, Caches())
        decode = engine._runner._network.decode
        engine._runner._network.decode = lambda f, m, p, d=decode, k=profile: (
            widths.setdefault(k, len(p)) and d(f, m, p)
        )
        engine.segment(photo, CLICKS[:1])
    assert widths == {"exact": 2, "fast": 1}


def test_the_exact_profile_mirrors_with_its_input(photo, exact):
    """Averaging both views makes the answer of a mirrored request the mirrored answer."""
    click = Click(200.5, 120.5)
    width = photo.shape[1]
    straight = exact.segment(photo, [click])
    turned = exact.segment(np.ascontiguousarray(photo[:, ::-1]), [Click(width - click.x, click.y)])
    # columns map to the crop by c * T / width, which is off by T / width between a pixel and its mirror image
    agreement = ((straight.probability - turned.probability[:, ::-1]) ** 2).mean() ** 0.5
    assert agreement < 0.02


def test_negative_clicks_alone_give_an_empty_mask(photo, exact):
    result = exact.segment(photo, [Click(10, 10, positive=False), Click(50, 50, positive=False)])
    assert not result.mask.any()
    assert not result.probability.any()
    assert result.score == 0
    assert result == exact.segment(photo, [Click(1, 1, positive=False)], ordered=False)


def test_negative_clicks_before_the_first_positive_one_count_with_it(photo, exact):
    negative, positive = Click(10.5, 10.5, positive=False), Click(200.5, 120.5)
    assert exact.segment(photo, [negative, positive]).mask.shape == photo.shape[:2]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_previous_mask_is_corrected_within_its_own_roi(photo, ordered):
    engine = fresh("exact", Caches())
    previous = np.zeros(photo.shape[:2], bool)
    previous[20:60, 30:90] = True
    result = engine.segment(photo, [Click(50.5, 40.5)], previous_mask=previous, ordered=ordered)
    assert result.roi == (0, 140, 0, 160)  # centre 39.5 and 59.5, side 201 at least, cut to the photo
    assert not result.mask[141:].any()
    as_float = engine.segment(photo, [Click(50.5, 40.5)], previous_mask=previous.astype(np.float64), ordered=ordered)
    assert result == as_float
    assert result != engine.segment(photo, [Click(50.5, 40.5)], ordered=ordered)


def test_negative_clicks_correct_a_previous_mask(photo, exact):
    previous = np.zeros(photo.shape[:2], np.float32)
    previous[20:160, 30:190] = 0.9
    result = exact.segment(photo, [Click(50.5, 40.5, positive=False)], previous_mask=previous)
    assert result.probability.any()


def test_an_empty_previous_mask_is_as_good_as_none(photo, exact):
    blank = np.zeros(photo.shape[:2], bool)
    np.testing.assert_array_equal(
        exact.segment(photo, CLICKS[:1], previous_mask=blank).probability, exact.segment(photo, CLICKS[:1]).probability
    )


def test_a_reply_can_be_corrected_further(photo, exact):
    first = exact.segment(photo, CLICKS[:1])
    second = exact.segment(photo, CLICKS[:2], previous_mask=first.probability, ordered=False)
    assert second.probability.shape == photo.shape[:2]


def test_a_box_sets_the_region(photo, exact):
    result = exact.segment(photo, box=Box(150, 60, 330, 260))
    rows, columns = (60, 259), (150, 329)
    half = 1.4 * 200 / 2
    assert result.roi[0] == max(0, round(sum(rows) / 2 - half))
    assert result.roi[2:] == (round(sum(columns) / 2 - 1.4 * 180 / 2), round(sum(columns) / 2 + 1.4 * 180 / 2))
    both = exact.segment(photo, CLICKS[:2], box=Box(150, 60, 330, 260))
    assert both != result


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "nothing to go by"),
        ({"clicks": [Click(1000, 10)]}, "outside the image"),
        ({"box": Box(900, 900, 950, 950)}, "outside the image"),
        ({"clicks": CLICKS, "previous_mask": np.zeros((5, 5), bool)}, "shape"),
        ({"clicks": CLICKS, "previous_mask": np.zeros((300, 451), np.uint8)}, "bool or float"),
        ({"clicks": CLICKS, "previous_mask": np.full((300, 451), 255.0)}, "outside"),
        ({"clicks": CLICKS, "previous_mask": np.full((300, 451), np.nan)}, "outside"),
        ({"clicks": CLICKS, "previous_mask": [[0]]}, "shape"),
        ({"previous_mask": np.ones((300, 451), bool)}, "at least one click"),
    ],
)
def test_prompts_that_do_not_fit_say_why(photo, exact, arguments, text):
    with pytest.raises(PromptError, match=text):
        exact.segment(photo, **arguments)


def test_an_image_must_be_one(exact):
    with pytest.raises(ImageError):
        exact.segment(np.zeros((10, 10)), CLICKS)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 3), (1000, 30)])
def test_images_of_any_shape_are_taken(fast, shape):
    image = np.full((*shape, 3), 90, np.uint8)
    click = Click(shape[1] / 2, shape[0] / 2)
    result = fast.segment(image, [click, click])
    assert result.mask.shape == shape
    assert fast.segment(image, box=Box(0, 0, shape[1], shape[0])).mask.shape == shape


def test_clean_up_touches_the_mask_only(photo, exact):
    plain = exact.segment(photo, CLICKS)
    tidied = exact.segment(photo, CLICKS, clean_up=CleanUp(min_area=10**9))
    np.testing.assert_array_equal(plain.probability, tidied.probability)
    assert tidied.mask.sum() <= plain.mask.sum()


def test_prefetching_spares_the_first_click_its_encoding(photo):
    engine = fresh("fast", Caches(ByteLRU(1 << 28)))
    engine.prefetch(photo)
    assert "encode" not in engine.segment(photo, CLICKS[:1]).timings
    assert "encode" in fresh("fast", Caches()).segment(photo, CLICKS[:1]).timings


def test_engines_may_share_caches_without_mixing(photo):
    caches = Caches(ByteLRU(1 << 28), ByteLRU(1 << 28))
    shared = [fresh(profile, caches).segment(photo, CLICKS) for profile in PROFILES]
    alone = [fresh(profile, Caches()).segment(photo, CLICKS) for profile in PROFILES]
    assert shared == alone


def test_eight_threads_get_the_single_callers_replies(photo):
    engine = fresh("fast", Caches(ByteLRU(3 << 20), ByteLRU(1 << 20)))  # small: evictions while others read
    photos = [LoadedImage.from_array(np.roll(photo, 40 * n, axis=1)) for n in range(4)]
    expected = {
        (n, count): fresh("fast", Caches()).segment(photos[n], CLICKS[:count]) for n in range(4) for count in (1, 2, 3)
    }
    wrong = []

    def work(seed: int) -> None:
        for i in range(6):
            key = (seed + i) % 4, 1 + (seed * 5 + i) % 3
            if engine.segment(photos[key[0]], CLICKS[: key[1]]) != expected[key]:
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_serving_changes_nothing_in_the_network(photo):
    engine = fresh("exact", Caches())
    before = {k: v.clone() for k, v in engine._runner._network.state_dict().items()}
    engine.segment(photo, CLICKS)
    assert all(torch.equal(before[k], v) for k, v in engine._runner._network.state_dict().items())


def test_the_score_is_the_expected_iou():
    patch = np.array([[1.0, 0.8], [0.4, 0.0]], np.float32)
    assert expected_iou(patch) == pytest.approx(1.8 / 2.4)
    assert expected_iou(np.zeros((3, 3), np.float32)) == 0
    assert expected_iou(np.ones((3, 3), np.float32)) == 1


def test_what_is_not_there_says_so():
    with pytest.raises(ConfigError, match="exact and fast"):
        Engine.from_weights(TINY, profile="quick")
    with pytest.raises(DeviceError, match="not there"):
        Engine.from_weights(TINY, device="cuda:99")
    for name in ("gpu", "mps"):
        with pytest.raises(DeviceError):
            Engine.from_weights(TINY, device=name)
    with pytest.raises(WeightsError):
        Engine.from_weights("no such weights")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_cpus_logits(photo):
    on_cpu, on_gpu = fresh("exact", Caches()), Engine.from_weights(TINY, "cuda", "exact", Caches())
    first, second = (engine.segment(photo, CLICKS) for engine in (on_cpu, on_gpu))
    np.testing.assert_allclose(first.probability, second.probability, rtol=0, atol=1e-4)
