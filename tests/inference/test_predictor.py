"""What the reference traces leave open about the predictor."""

from itertools import pairwise

import numpy as np
import torch

from icmformer import LoadedImage
from icmformer.inference.backends.base import CallableBackend
from icmformer.inference.predictor import Prediction, Predictor
from icmformer.inference.roi import ROI, PixelClick, ZoomSettings
from icmformer.weights import CloseUp, ServingDefaults
from tests.golden.analytic import analytic_network
from training.evaluate import trace


class Recorder:
    """A network that keeps what it was shown and predicts a square around the last mask's middle."""

    def __init__(self):
        self.inputs = []

    def __call__(self, image, prev_mask, points):
        self.inputs.append((image.clone(), prev_mask.clone(), points.clone()))
        logits = torch.full_like(prev_mask, -8.0)
        height, width = logits.shape[2:]
        logits[..., height // 4 : height // 2, width // 4 : width // 2] = 8.0
        return logits


def predictor(recorder, flip=False, refinement_pass=False, close_up=None, min_crop_size=200, **zoom):
    serving = ServingDefaults(min_crop_size, refinement_pass, close_up=close_up)
    return Predictor(CallableBackend(recorder), ZoomSettings(**zoom), flip, serving)


def image(height=600, width=800):
    rng = np.random.default_rng(0)
    return LoadedImage.from_array(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def steps(clicks, recorder, picture=None, **settings):
    asked, picture, predictions = predictor(recorder, **settings), picture or image(), [None]
    for count in range(1, len(clicks) + 1):
        predictions.append(asked.step(picture, predictions[-1], clicks[:count]))
    return predictions[1:]


def test_the_mirror_pass_sees_the_mirror_image():
    recorder = Recorder()
    steps([PixelClick(200, 300, True), PixelClick(10, 20, False)], recorder, flip=True)
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

    probability = predictor(lopsided, flip=True).step(image(), None, [PixelClick(1, 1, True)]).patch
    two = torch.sigmoid(torch.tensor(2.0)).item()
    np.testing.assert_allclose(probability[:, 0], two, atol=1e-6)
    np.testing.assert_allclose(probability[:, -1], two, atol=1e-6)
    np.testing.assert_allclose(probability[:, 1:-1], 0.5, atol=1e-6)


def test_the_roi_follows_the_mask_and_shrinks_with_it():
    predictions = steps([PixelClick(850, 1100, True)] * 4, Recorder(), image(2400, 3200))
    rois = [prediction.roi for prediction in predictions]
    assert rois[0] == ROI(0, 2399, 0, 3199)
    assert len(set(rois)) >= 3  # the square lies ever further inside
    for old, new in pairwise(rois):
        assert new.row_min >= old.row_min
        assert new.height <= old.height


def test_a_negative_click_outside_the_roi_is_lost_and_leaves_the_roi_alone():
    recorder = Recorder()
    clicks = [PixelClick(200, 300, True), PixelClick(210, 310, True), PixelClick(1, 1, False)]
    predictions = steps(clicks, recorder)
    assert predictions[2].roi.row_min > 1
    points = recorder.inputs[2][2][0]
    assert (points[2] != -1).any()
    assert points[2, 0] < -5  # a disk that far beyond the edge leaves no pixel
    assert points[2, 1] < -5


def test_the_first_click_sees_no_mask_and_the_next_the_last_one_cropped():
    recorder = Recorder()
    predictions = steps([PixelClick(200, 300, True), PixelClick(210, 310, True)], recorder)
    assert not recorder.inputs[0][1].any()
    frame, roi = predictions[0].map.full(), predictions[1].roi
    part = torch.from_numpy(frame[roi.slices])[None, None]
    expected = torch.nn.functional.interpolate(part, (448, 448), mode="bilinear", align_corners=True)
    torch.testing.assert_close(recorder.inputs[1][1], expected, atol=1e-5, rtol=0)


def test_the_refinement_pass_is_the_step_that_the_first_prediction_asks_for():
    recorder, click = Recorder(), PixelClick(200, 300, True)
    predictions = steps([click, PixelClick(210, 310, True)], recorder, refinement_pass=True)
    assert len(recorder.inputs) == 3  # the second click has none
    plain = predictor(Recorder())
    first = plain.step(image(), None, [click])
    second = plain.step(image(), first, [click])
    assert second.roi != first.roi
    assert predictions[0].roi == second.roi
    np.testing.assert_array_equal(predictions[0].patch, second.patch)
    assert torch.equal(recorder.inputs[0][2][:, :, 2], recorder.inputs[1][2][:, :, 2])  # the same click, once


def test_what_fills_the_image_or_starts_from_a_mask_or_has_its_roi_is_not_refined():
    def everywhere(pixels, prev_mask, points):
        seen.append(pixels)
        return torch.full_like(prev_mask, 8.0)

    def nowhere(pixels, prev_mask, points):
        seen.append(pixels)
        return torch.full_like(prev_mask, -8.0)

    click = PixelClick(200, 300, True)
    for network in (everywhere, nowhere):
        seen = []
        predictor(network, refinement_pass=True).step(image(), None, [click])
        assert len(seen) == 1
    mask = np.zeros((600, 800), np.float32)
    mask[190:260, 290:360] = 1
    for previous, roi in ((Prediction.given(mask), None), (None, ROI(0, 299, 0, 399))):
        recorder = Recorder()
        predictor(recorder, refinement_pass=True).step(image(), previous, [click], roi=roi)
        assert len(recorder.inputs) == 1


class Finds:
    """A network that finds the same rectangle of the image, whatever it is shown: the image is black elsewhere."""

    def __call__(self, image, prev_mask, points):
        return torch.where(image.mean(dim=1, keepdim=True) > 0.5, 8.0, -8.0)


def rois(clicks, rows, columns, **settings):
    """The ROI of each step, on an image of 600 x 800 in which the network finds one rectangle."""
    pixels = np.zeros((600, 800, 3), np.uint8)
    pixels[rows, columns] = 255
    return [p.roi for p in steps(clicks, Finds(), LoadedImage.from_array(pixels), **settings)]


def test_later_clicks_zoom_in_closer_on_what_is_small():
    clicks = [PixelClick(310, 415, True)] * 4
    found = slice(300, 321), slice(400, 431)  # 21 x 31 pixels
    usual, close = (rois(clicks, *found, close_up=wish) for wish in (None, CloseUp(3, 30, 1.6)))
    assert close[:2] == usual[:2]
    assert usual[1] == usual[2] == usual[3]
    assert (usual[1].height, usual[1].width) == (201, 201)
    assert close[2] == close[3]
    assert abs(close[2].height - 1.6 * 21) <= 4  # at the resolution of the crop before, a pixel or so
    assert abs(close[2].width - 1.6 * 31) <= 4
    least = rois(clicks, *found, close_up=CloseUp(3, 60, 1.6))
    assert (least[2].height, least[2].width) == (61, 61)


def test_the_roi_of_a_large_mask_stays_as_it_does_without_close_ups():
    clicks = [PixelClick(300, 400, True)] * 4
    found = slice(150, 451), slice(200, 601)
    assert rois(clicks, *found, close_up=CloseUp(3, 60, 1.25)) == rois(clicks, *found)


def test_a_close_up_never_keeps_further_away_than_the_weights_do():
    clicks, found = [PixelClick(310, 415, True)] * 4, (slice(300, 321), slice(400, 431))
    near = rois(clicks, *found, close_up=CloseUp(2, 150, 1.4), min_crop_size=50)
    assert near == rois(clicks, *found, min_crop_size=50)
    assert near[-1].height == 51


def test_the_refinement_pass_is_no_close_up_however_many_clicks_came_before():
    clicks = [PixelClick(10, 10, False), PixelClick(10, 700, False), PixelClick(310, 415, True)]
    pixels = np.zeros((600, 800, 3), np.uint8)
    pixels[300:321, 400:431] = 255
    found = [
        predictor(Finds(), refinement_pass=True, close_up=wish).step(LoadedImage.from_array(pixels), None, clicks).roi
        for wish in (None, CloseUp(2, 30, 1.2))
    ]
    assert found[0] == found[1]
    assert (found[0].height, found[0].width) == (201, 201)


def test_a_given_mask_is_a_prediction_of_every_pixel():
    mask = np.random.default_rng(2).random((30, 40), np.float32)
    prediction = Prediction.given(mask)
    assert (prediction.roi, prediction.shown, prediction.nbytes) == (None, (0, 29, 0, 39), mask.nbytes)
    np.testing.assert_array_equal(prediction.map.full(), mask)
    assert [[prediction.at(row, column) for column in range(40)] for row in range(30)] == mask.tolist()


def test_of_a_step_only_the_networks_own_probabilities_are_kept():
    (prediction,) = steps([PixelClick(200, 300, True)], Recorder(), image(2400, 3200))
    assert prediction.nbytes == 4 * 448 * 448
    assert prediction.map.full().shape == (2400, 3200)
    assert prediction.nbytes == 4 * 448 * 448
    assert set(vars(prediction)) == {"patch", "size", "roi", "guess"}
    assert prediction.guess is None
    corners = prediction.patch[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert [prediction.at(row, column) for row in (0, 2399) for column in (0, 3199)] == corners.tolist()
    zoomed = steps([PixelClick(200, 300, True)] * 2, Recorder())[1]
    assert zoomed.shown == zoomed.roi != (0, 599, 0, 799)
    assert zoomed.at(0, 0) == 0


def test_ritm_zoom_sees_the_whole_image_first_and_keeps_the_aspect():
    recorder = Recorder()
    predictions = steps(
        [PixelClick(200, 300, True), PixelClick(210, 310, True)], recorder, skip_clicks=1, target_size=400
    )
    assert recorder.inputs[0][0].shape == (1, 3, 600, 800)
    assert predictions[0].roi is None
    assert predictions[0].shown == (0, 599, 0, 799)
    roi = predictions[1].roi
    shape = recorder.inputs[1][0].shape[2:]
    assert max(shape) == 400
    assert abs(shape[0] / shape[1] - roi.height / roi.width) < 0.01


def test_the_protocol_runs_at_other_input_sizes():
    rows, columns = np.mgrid[:300, :400]
    truth = ((rows - 140) ** 2 / 2 + (columns - 220) ** 2 < 70**2).astype(np.int32)
    picture = image(300, 400).pixels
    for zoom in (
        {"target_size": (672, 672)},
        {"target_size": (448, 672)},
        {"skip_clicks": 1, "target_size": 400},
        None,
    ):
        session = trace(analytic_network, picture, truth, zoom, flip=True, target_iou=0.8)
        assert len(session.clicks) == len(session.ious) == len(session.rois)
        assert session.ious[-1] >= 0.8
        assert all(iou < 0.8 for iou in session.ious[:-1])
