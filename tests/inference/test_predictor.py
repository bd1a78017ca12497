"""What the reference traces leave open about the click path."""

from itertools import pairwise

import numpy as np
import torch

from icmformer import LoadedImage
from icmformer.inference.predictor import ClickPath, State
from icmformer.inference.roi import ROI, PixelClick, ZoomSettings
from icmformer.inference.runner import WholeRunner
from tests.golden.analytic import analytic_network
from training.evaluate import trace


class Recorder:
    """A network that keeps what it was shown and answers with a square around the last mask's middle."""

    def __init__(self):
        self.inputs = []

    def __call__(self, image, prev_mask, points):
        self.inputs.append((image.clone(), prev_mask.clone(), points.clone()))
        logits = torch.full_like(prev_mask, -8.0)
        height, width = logits.shape[2:]
        logits[..., height // 4 : height // 2, width // 4 : width // 2] = 8.0
        return logits


def path(recorder, flip=False, second_look=False, **zoom):
    return ClickPath(WholeRunner(recorder), ZoomSettings(**zoom), flip, second_look)


def image(height=600, width=800):
    rng = np.random.default_rng(0)
    return LoadedImage.from_array(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def play(clicks, recorder, picture=None, **settings):
    click_path, picture, state, answers = path(recorder, **settings), picture or image(), State(), []
    for count in range(1, len(clicks) + 1):
        answers.append(click_path.advance(picture, state, clicks[:count]))
        state = answers[-1].state()
    return answers


def test_the_mirror_pass_sees_the_mirror_image():
    recorder = Recorder()
    play([PixelClick(200, 300, True), PixelClick(10, 20, False)], recorder, flip=True)
    for pixels, previous, points in recorder.inputs:
        assert torch.equal(pixels[1], pixels[0].flip(2))
        assert torch.equal(previous[1], previous[0].flip(2))
        present = points[0, :, 0] >= 0
        torch.testing.assert_close(points[1, present, 1], 447 - points[0, present, 1])
        assert torch.equal(points[1, :, 0], points[0, :, 0])


def test_both_views_logits_are_averaged():
    def lopsided(pixels, prev_mask, points):
        logits = torch.zeros_like(prev_mask)
        logits[..., 0] = 4.0  # the first column in either view
        return logits

    probability = path(lopsided, flip=True).advance(image(), State(), [PixelClick(1, 1, True)]).patch
    two = torch.sigmoid(torch.tensor(2.0)).item()
    np.testing.assert_allclose(probability[:, 0], two, atol=1e-6)
    np.testing.assert_allclose(probability[:, -1], two, atol=1e-6)
    np.testing.assert_allclose(probability[:, 1:-1], 0.5, atol=1e-6)


def test_the_region_follows_the_mask_and_shrinks_with_it():
    answers = play([PixelClick(850, 1100, True)] * 4, Recorder(), image(2400, 3200))
    rois = [answer.roi for answer in answers]
    assert rois[0] == ROI(0, 2399, 0, 3199)
    assert len(set(rois)) >= 3  # the square lies ever further inside
    for old, new in pairwise(rois):
        assert new.row_min >= old.row_min
        assert new.height <= old.height


def test_a_negative_click_outside_the_region_is_lost_and_leaves_the_region_alone():
    recorder = Recorder()
    clicks = [PixelClick(200, 300, True), PixelClick(210, 310, True), PixelClick(1, 1, False)]
    answers = play(clicks, recorder)
    assert answers[2].roi.row_min > 1
    points = recorder.inputs[2][2][0]
    assert (points[2] != -1).any()
    assert points[2, 0] < -5  # a disk that far beyond the edge leaves no pixel
    assert points[2, 1] < -5


def test_the_first_click_sees_no_mask_and_the_next_the_last_one_cropped():
    recorder = Recorder()
    answers = play([PixelClick(200, 300, True), PixelClick(210, 310, True)], recorder)
    assert not recorder.inputs[0][1].any()
    frame, roi = answers[0].map.full(), answers[1].roi
    part = torch.from_numpy(frame[roi.slices])[None, None]
    expected = torch.nn.functional.interpolate(part, (448, 448), mode="bilinear", align_corners=True)
    torch.testing.assert_close(recorder.inputs[1][1], expected, atol=1e-5, rtol=0)


def test_a_second_look_is_the_pass_that_the_first_answer_asks_for():
    recorder, click = Recorder(), PixelClick(200, 300, True)
    answers = play([click, PixelClick(210, 310, True)], recorder, second_look=True)
    assert len(recorder.inputs) == 3  # the second click looks once
    plain = path(Recorder())
    first = plain.advance(image(), State(), [click])
    second = plain.advance(image(), first.state(), [click])
    assert second.roi != first.roi
    assert answers[0].roi == second.roi
    np.testing.assert_array_equal(answers[0].patch, second.patch)
    assert torch.equal(recorder.inputs[0][2][:, :, 2], recorder.inputs[1][2][:, :, 2])  # the same click, once


def test_what_fills_the_image_or_starts_from_a_mask_or_in_a_region_is_looked_at_once():
    def everywhere(pixels, prev_mask, points):
        seen.append(pixels)
        return torch.full_like(prev_mask, 8.0)

    def nowhere(pixels, prev_mask, points):
        seen.append(pixels)
        return torch.full_like(prev_mask, -8.0)

    click = PixelClick(200, 300, True)
    for network in (everywhere, nowhere):
        seen = []
        path(network, second_look=True).advance(image(), State(), [click])
        assert len(seen) == 1
    mask = np.zeros((600, 800), np.float32)
    mask[190:260, 290:360] = 1
    for state, region in ((State.given(mask), None), (State(), ROI(0, 299, 0, 399))):
        recorder = Recorder()
        path(recorder, second_look=True).advance(image(), state, [click], region=region)
        assert len(recorder.inputs) == 1


def test_ritm_zoom_sees_the_whole_image_first_and_keeps_the_aspect():
    recorder = Recorder()
    answers = play([PixelClick(200, 300, True), PixelClick(210, 310, True)], recorder, skip_clicks=1, target_size=400)
    assert recorder.inputs[0][0].shape == (1, 3, 600, 800)
    assert answers[0].object_roi is None
    roi = answers[1].roi
    shape = recorder.inputs[1][0].shape[2:]
    assert max(shape) == 400
    assert abs(shape[0] / shape[1] - roi.height / roi.width) < 0.01


def test_other_input_sizes_play_the_protocol():
    rows, columns = np.mgrid[:300, :400]
    truth = ((rows - 140) ** 2 / 2 + (columns - 220) ** 2 < 70**2).astype(np.int32)
    picture = image(300, 400).pixels
    for zoom in (
        {"target_size": (672, 672)},
        {"target_size": (448, 672)},
        {"skip_clicks": 1, "target_size": 400},
        None,
    ):
        played = trace(analytic_network, picture, truth, zoom, flip=True, target_iou=0.8)
        assert len(played.clicks) == len(played.ious) == len(played.rois)
        assert played.ious[-1] >= 0.8
        assert all(iou < 0.8 for iou in played.ious[:-1])
