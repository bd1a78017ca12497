import numpy as np
import torch

from tests.conftest import GOLDEN
from training.loop.losses import AdaptiveIoU, normalized_focal_loss

NUMBERS = np.load(GOLDEN / "protocol" / "normalized_focal_loss.npz")


def test_loss_and_gradient_are_the_published_ones():
    logits = torch.tensor(NUMBERS["logits"], requires_grad=True)
    losses = normalized_focal_loss(logits, torch.tensor(NUMBERS["label"]))
    np.testing.assert_allclose(losses.detach().numpy(), NUMBERS["loss"], rtol=0, atol=1e-6)
    losses.mean().backward()
    np.testing.assert_allclose(logits.grad.numpy(), NUMBERS["grad"], rtol=0, atol=1e-8)


def test_adaptive_iou_is_the_published_one():
    iou = AdaptiveIoU().update(torch.tensor(NUMBERS["logits"]), torch.tensor(NUMBERS["label"]))
    assert abs(iou - float(NUMBERS["adaptive_iou"])) < 1e-6


def test_the_threshold_walks_towards_the_better_side():
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4] = 1
    logits = torch.where(target == 1, 2.0, -0.36)  # the background lies at 0.41: a higher threshold is better
    metric = AdaptiveIoU()
    values = [metric.update(logits, target) for _ in range(3)]
    assert values == [1.0, 1.0, 1.0]
    assert abs(metric.threshold - (0.4 + 3 * 0.00025)) < 1e-9
    target[..., 7] = -1
    assert metric.update(torch.where(target == -1, 5.0, logits), target) == 1.0
