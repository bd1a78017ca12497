"""The engine: pure replies, prompts and their errors, agreement with the protocol."""

import dataclasses
import itertools
import threading

import numpy as np
import pytest
import torch
from skimage import data

from icmformer import Box, Caches, CleanUp, Click, Engine, LoadedImage, weights
from icmformer.errors import ConfigError, DeviceError, PromptError, WeightsError
from icmformer.inference.cache import ByteLRU
from icmformer.inference.profiles import PROFILES, find_device, find_runtime
from icmformer.inference.roi import PixelClick
from icmformer.models import build_network
from icmformer.models.config import config_mapping
from icmformer.settings import Settings
from tests.conftest import TINY, TRAINED
from tests.engines import engine
from training.evaluate import trace

CLICKS = [Click(200.5, 120.5), Click(150.5, 200.5, positive=False), Click(260.5, 160.5), Click(90.5, 60.5)]
FRAME = (0, 299, 0, 450)


@pytest.fixture(scope="module")
def photo():
    """A rocket at dusk, 451 x 300 pixels: small in its photo, so that the ROI moves after the first click."""
    return np.ascontiguousarray(data.rocket()[110:410, 100:551])


@pytest.mark.parametrize("refinement_pass", [False, True])
def test_these_clicks_move_mask_and_roi(photo, refinement_pass):
    """What the tests below compare is not all alike."""
    exact = engine(refinement_pass=refinement_pass)
    replies = [exact.segment(photo, CLICKS[:count]) for count in range(1, 5)]
    shares = [reply.mask.mean() for reply in replies]
    assert all(0.002 < share < 0.9 for share in shares)
    assert len(set(shares)) == 4
    assert (replies[0].roi == FRAME) is not refinement_pass
    assert replies[1].roi != FRAME


@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize("ordered", [True, False])
def test_warm_and_cold_replies_are_the_same_bits(photo, profile, ordered):
    warm = engine(profile, Caches(ByteLRU(1 << 28), ByteLRU(1 << 28)))
    for count in range(1, len(CLICKS) + 1):
        warm.segment(photo, CLICKS[:count], ordered=ordered)
        warm.segment(photo, CLICKS[:count][::-1], ordered=ordered)
        cold = engine(profile, Caches())
        assert warm.segment(photo, CLICKS[:count], ordered=ordered) == cold.segment(
            photo, CLICKS[:count], ordered=ordered
        )
    assert warm.caches.states.stats().hits
    assert warm.caches.features.stats().hits


def test_ordered_clicks_give_the_published_protocols_masks(photo):
    exact = engine(caches=Caches(), runtime="torch", refinement_pass=False)
    truth = np.zeros(photo.shape[:2], np.int32)
    truth[60:220, 120:330] = 1
    network = exact.weights.build()
    side = network.config.img_size
    played = trace(network, photo, truth, {"target_size": [side, side]}, flip=True, target_iou=None, max_clicks=6)
    assert len(played.clicks) == 6
    result = exact.segment(photo, [Click(c + 0.5, r + 0.5, p) for r, c, p in played.clicks])
    np.testing.assert_array_equal(result.probability, played.probability)
    np.testing.assert_array_equal(result.mask, played.probability > 0.49)
    assert result.roi == played.rois[-1]


def test_the_order_between_the_kinds_matters_only_when_it_is_known(photo, exact):
    positive, negative = [c for c in CLICKS if c.positive], [c for c in CLICKS if not c.positive]
    shuffles = [positive + negative, negative + positive, CLICKS]
    replies = [exact.segment(photo, clicks, ordered=False) for clicks in shuffles]
    assert replies[0] == replies[1] == replies[2]
    kept = [o for o in itertools.permutations(CLICKS) if [c for c in o if c.positive] == positive and o[0].positive]
    assert replies[0] in [exact.segment(photo, order) for order in kept]


def counting_passes(counted, monkeypatch):
    """A list that gets the batch of each pass of an engine's network."""
    passes = []
    decode = counted.backend.decode
    monkeypatch.setattr(counted.backend, "decode", lambda f, m, p: passes.append(len(p)) or decode(f, m, p))
    return passes


@pytest.mark.parametrize("refinement_pass", [False, True])
def test_one_more_click_costs_one_more_step(photo, refinement_pass, monkeypatch):
    exact = engine(caches=Caches(ByteLRU(1 << 28), ByteLRU(1 << 28)), refinement_pass=refinement_pass)
    passes = counting_passes(exact, monkeypatch)
    for count in range(1, len(CLICKS) + 1):
        exact.segment(photo, CLICKS[:count])
        assert len(passes) == count + refinement_pass
    exact.segment(photo, CLICKS)
    exact.segment(photo, CLICKS[:2])
    assert len(passes) == len(CLICKS) + refinement_pass


def test_the_mirror_pass_happens_in_exact_and_not_in_fast(photo, monkeypatch):
    batches = {}
    for profile in PROFILES:
        asked = engine(profile, Caches(), refinement_pass=False)
        batches[profile] = counting_passes(asked, monkeypatch)
        asked.segment(photo, CLICKS[:1])
    assert batches == {"exact": [2], "fast": [1]}


def test_the_exact_profile_treats_left_and_right_alike(photo):
    """Averaging both views makes the reply to a mirrored request nearly the mirrored reply; one view does not."""
    width = photo.shape[1]
    turned_photo, click = np.ascontiguousarray(photo[:, ::-1]), Click(200.5, 120.5)

    def asymmetry(flip: bool) -> float:
        profile = dataclasses.replace(PROFILES["exact"], flip=flip)
        asked = engine(profile, Caches())
        straight = asked.segment(photo, [click])
        turned = asked.segment(turned_photo, [Click(width - click.x, click.y)])
        return float(((straight.probability - turned.probability[:, ::-1]) ** 2).mean() ** 0.5)

    assert asymmetry(flip=True) < asymmetry(flip=False) / 2


def test_negative_clicks_alone_give_an_empty_mask(photo, exact):
    result = exact.segment(photo, [Click(10, 10, positive=False), Click(50, 50, positive=False)])
    assert not result.mask.any()
    assert not result.probability.any()
    assert result.score == 0
    assert result == exact.segment(photo, [Click(1, 1, positive=False)], ordered=False)


def test_negative_clicks_before_the_first_positive_one_count_with_it(photo):
    """There is nothing to show for them alone, so the first step sees them together with the first positive click."""
    negative, positive = Click(230.5, 140.5, positive=False), Click(200.5, 120.5)
    exact = engine()
    both = [PixelClick(140, 230, False), PixelClick(120, 200, True)]
    first = exact.segment(photo, [negative, positive])
    together = exact.predictor.step(LoadedImage.from_array(photo), None, both)
    np.testing.assert_array_equal(first.probability, together.map.full())
    assert first != exact.segment(photo, [positive])


@pytest.mark.parametrize("ordered", [True, False])
def test_a_previous_mask_is_corrected_within_its_own_roi(photo, ordered):
    exact = engine(caches=Caches())
    previous = np.zeros(photo.shape[:2], bool)
    previous[20:60, 30:90] = True
    result = exact.segment(photo, [Click(50.5, 40.5)], previous_mask=previous, ordered=ordered)
    assert result.roi == (0, 140, 0, 160)  # centre 39.5 and 59.5, side 201 at least, cut to the photo
    assert not result.mask[141:].any()
    as_float = exact.segment(photo, [Click(50.5, 40.5)], previous_mask=previous.astype(np.float64), ordered=ordered)
    assert result == as_float
    assert result != exact.segment(photo, [Click(50.5, 40.5)], ordered=ordered)


def test_weights_may_zoom_further_in_than_the_published_ones(photo):
    previous = np.zeros(photo.shape[:2], bool)
    previous[20:60, 30:90] = True  # 1.4 x 40 rows, 1.4 x 60 columns around 39.5 and 59.5
    closer = engine(caches=Caches(), of=TINY, min_crop_size=70)
    result = closer.segment(photo, [Click(50.5, 40.5)], previous_mask=previous)
    assert result.roi == (4, 74, 18, 102)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_refinement_pass_is_part_of_the_reply_with_any_caches(photo, ordered):
    warm = engine(refinement_pass=True)
    for count in range(1, len(CLICKS) + 1):
        cold = engine(caches=Caches(), refinement_pass=True).segment(photo, CLICKS[:count], ordered=ordered)
        assert warm.segment(photo, CLICKS[:count], ordered=ordered) == cold
    once = engine(refinement_pass=False).segment(photo, CLICKS[:1])
    assert once.roi == FRAME
    refined = warm.segment(photo, CLICKS[:1])
    assert refined.roi != FRAME
    assert refined.mask.any()


def test_negative_clicks_correct_a_previous_mask(photo, exact):
    previous = np.zeros(photo.shape[:2], np.float32)
    previous[20:160, 30:190] = 0.9
    click = Click(50.5, 40.5, positive=False)
    result = exact.segment(photo, [click], previous_mask=previous)
    assert result.roi[0] == 0
    assert result.roi[1] < photo.shape[0] - 1
    assert result != exact.segment(photo, [Click(150.5, 140.5, positive=False)], previous_mask=previous)
    assert (
        result.probability[40, 50]
        < exact.segment(photo, [Click(50.5, 40.5)], previous_mask=previous).probability[40, 50]
    )


def test_a_previous_mask_with_nothing_over_one_half_is_as_good_as_none(photo, exact):
    for blank in (np.zeros(photo.shape[:2], bool), np.full(photo.shape[:2], 0.5, np.float32)):
        assert exact.segment(photo, CLICKS, previous_mask=blank) == exact.segment(photo, CLICKS)
        assert not exact.segment(photo, [Click(9, 9, positive=False)], previous_mask=blank).mask.any()
        box = Box(150, 60, 330, 260)
        assert exact.segment(photo, box=box, previous_mask=blank) == exact.segment(photo, box=box)


def test_a_reply_passed_back_goes_on_where_it_stopped(photo):
    exact = engine(refinement_pass=False)
    first = exact.segment(photo, CLICKS[:1])
    further = exact.segment(photo, CLICKS[:2], previous_mask=first.probability, ordered=False)
    assert further != first
    assert further.roi == exact.segment(photo, CLICKS[:2]).roi


def test_a_box_sets_the_roi(photo, exact):
    box = Box(150, 60, 330, 260)
    result = exact.segment(photo, box=box)
    rows, columns = (60, 259), (150, 329)
    half = 1.4 * 200 / 2
    roi = (
        max(0, round(sum(rows) / 2 - half)),
        min(299, round(sum(rows) / 2 + half)),
        round(sum(columns) / 2 - 1.4 * 180 / 2),
        round(sum(columns) / 2 + 1.4 * 180 / 2),
    )
    assert result.roi == roi
    assert exact.segment(photo, box=(330, 260, 150, 60)) == result
    assert exact.segment(photo, CLICKS[:2], box=box) != result
    elsewhere = np.zeros(photo.shape[:2], bool)
    elsewhere[280:290, 10:40] = True
    assert exact.segment(photo, box=box, previous_mask=elsewhere) == result
    part = np.zeros(photo.shape[:2], bool)
    part[100:150, 200:300] = True
    assert exact.segment(photo, box=box, previous_mask=part).roi == roi


@pytest.mark.parametrize(("clicks", "steps"), [([], 1), (CLICKS[:1], 2), (CLICKS[1:2], 2), (CLICKS[:2], 3)])
def test_a_box_costs_one_step_and_each_click_one_more(photo, clicks, steps, monkeypatch):
    fast = engine("fast", Caches())
    counted = counting_passes(fast, monkeypatch)
    fast.segment(photo, clicks, box=Box(150, 60, 330, 260))
    assert len(counted) == steps


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "the prompt is empty"),
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


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 3), (1000, 30)])
def test_images_of_any_shape_are_taken(fast, shape):
    image = np.full((*shape, 3), 90, np.uint8)
    click = Click(shape[1] / 2, shape[0] / 2)
    result = fast.segment(image, [click, click])
    assert result.mask.shape == shape
    assert fast.segment(image, box=Box(0, 0, shape[1], shape[0])).mask.shape == shape


def test_clean_up_touches_the_mask_only(photo, exact):
    previous = np.zeros(photo.shape[:2], bool)
    previous[20:160, 30:190] = True
    away = [Click(440.5, 290.5, positive=False)]
    plain = exact.segment(photo, away, previous_mask=previous)
    tidied = exact.segment(photo, away, previous_mask=previous, clean_up=CleanUp(min_area=10**9))
    assert plain.mask.any()
    assert not tidied.mask.any()  # no positive click holds any part
    np.testing.assert_array_equal(plain.probability, tidied.probability)


def test_prefetching_spares_the_first_click_its_encoding(photo):
    fast = engine("fast", Caches(ByteLRU(1 << 28)))
    fast.prefetch(photo)
    assert "encode" not in fast.segment(photo, CLICKS[:1]).timings
    assert "encode" in engine("fast", Caches()).segment(photo, CLICKS[:1]).timings


def test_engines_may_share_caches_without_mixing(photo):
    caches = Caches(ByteLRU(1 << 28), ByteLRU(1 << 28))
    shared = [engine(profile, caches).segment(photo, CLICKS) for profile in PROFILES]
    alone = [engine(profile, Caches()).segment(photo, CLICKS) for profile in PROFILES]
    assert shared == alone


def test_a_shared_cache_tells_networks_of_the_same_values_apart(photo, tmp_path):
    network = build_network("icmformer_vit_tiny224")
    config = config_mapping(network.config)
    engines = []
    caches = Caches(ByteLRU(1 << 28), ByteLRU(1 << 28))
    for heads in (3, 6):
        folder = weights.save(tmp_path / str(heads), {**config, "num_heads": heads}, network.state_dict(), "w")
        engines.append(Engine.from_weights(folder, "cpu", "exact", caches))
    assert engines[0].weights.sha256 == engines[1].weights.sha256
    first, second = (engine.segment(photo, CLICKS).probability for engine in engines)
    assert not np.array_equal(first, second)


def test_a_callers_autocast_changes_nothing(photo):
    expected = engine("exact", Caches()).segment(photo, CLICKS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert engine("exact", Caches()).segment(photo, CLICKS) == expected


def test_writing_to_the_array_later_changes_nothing(photo, exact):
    mine = photo.copy()
    loaded = LoadedImage.from_array(mine)
    mine[:] = 0
    assert engine("exact", Caches()).segment(loaded, CLICKS) == exact.segment(photo, CLICKS)


def test_eight_threads_get_the_single_callers_replies(photo):
    fast = engine("fast", Caches(ByteLRU(3 << 20), ByteLRU(1 << 20)))  # small: evictions while others read
    photos = [LoadedImage.from_array(np.roll(photo, 40 * n, axis=1)) for n in range(4)]
    expected = {
        (n, count): engine("fast", Caches()).segment(photos[n], CLICKS[:count]) for n in range(4) for count in (1, 2, 3)
    }
    wrong = []

    def work(seed: int) -> None:
        for i in range(6):
            key = (seed + i) % 4, 1 + (seed * 5 + i) % 3
            if fast.segment(photos[key[0]], CLICKS[: key[1]]) != expected[key]:
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_serving_changes_nothing_in_the_network(photo):
    exact = engine(caches=Caches(), runtime="torch")
    before = {k: v.clone() for k, v in exact.backend.network.state_dict().items()}
    exact.segment(photo, CLICKS)
    assert all(torch.equal(before[k], v) for k, v in exact.backend.network.state_dict().items())


def test_what_is_not_said_is_as_the_settings_say(monkeypatch):
    monkeypatch.setenv("ICMFORMER_DEVICE", "cpu")
    silent = Engine.from_weights(TRAINED)
    assert (silent.profile, silent.runtime) == (PROFILES["fast"], find_runtime("auto", torch.device("cpu")))
    given = Settings(device="cpu", profile="exact", runtime="torch", feature_cache_mb=7)
    monkeypatch.setenv("ICMFORMER_PROFILE", "no such profile")  # with settings nothing else is read
    monkeypatch.setenv("ICMFORMER_FEATURE_CACHE_MB", "no number")
    for made in (Engine.from_weights(TRAINED, settings=given), Engine(silent.weights, settings=given)):
        assert (made.profile, made.runtime, made.device.type) == (PROFILES["exact"], "torch", "cpu")
        assert made.caches.features.capacity == made.beside().caches.features.capacity == 7 << 20
    assert Engine(silent.weights, profile="fast", settings=given).profile == PROFILES["fast"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device(Settings().device).type == "cuda"


def test_what_is_not_there_says_so():
    with pytest.raises(ConfigError, match="exact and fast"):
        Engine.from_weights(TRAINED, profile="quick")
    with pytest.raises(DeviceError, match="not there"):
        Engine.from_weights(TRAINED, device="cuda:99")
    for name in ("gpu", "mps"):
        with pytest.raises(DeviceError):
            Engine.from_weights(TRAINED, device=name)
    with pytest.raises(WeightsError):
        Engine.from_weights("no such weights")
