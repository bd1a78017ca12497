"""The normalised focal loss and the adaptive IoU (RITM; the same in SimpleClick and iCMFormer)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..simulated_annotator import IGNORE

_EPS = 1e-12


def normalized_focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.5, gamma: float = 2.0) -> Tensor:
    """The loss of each sample.

    p = sigmoid(logit), pt = 1 - |y - p|, b = (1 - pt)^gamma; b is scaled so that it sums to the number of valid pixels
    (the scale carries no gradient), and the loss is the mean over valid pixels of -alpha b log(pt).

    Args:
        logits: (B, 1, H, W).
        target: (B, 1, H, W): 1 object, 0 background, -1 ignored.
        alpha: Weight.
        gamma: Focus.

    Returns:
        (B,) losses.
    """
    logits = logits.float()
    valid = target != IGNORE
    object_share = (target == 1).float()
    probability = logits.sigmoid()
    pt = (1 - (object_share - probability).abs()).where(valid, 1.0)
    beta = (1 - pt) ** gamma
    count = valid.float().sum(dim=(1, 2, 3))
    scale = (count / (beta.sum(dim=(1, 2, 3)) + _EPS)).detach()
    pixel = -alpha * beta * scale.view(-1, 1, 1, 1) * (pt + _EPS).clamp(max=1.0).log()
    return (pixel * valid).sum(dim=(1, 2, 3)) / (count + _EPS)


def batch_iou(probability: Tensor, target: Tensor, threshold: float) -> Tensor:
    """The IoU of `probability > threshold` with the object, ignored pixels left out; () the mean over the batch."""
    mask, truth, valid = probability > threshold, target == 1, target != IGNORE
    both = (mask & truth & valid).sum(dim=(1, 2, 3))
    either = ((mask | truth) & valid).sum(dim=(1, 2, 3)).clamp(min=1)
    return (both / either).mean()


class AdaptiveIoU:
    """Mean IoU at a threshold that follows the network, as RITM logs it while training.

    Each update takes the best of the threshold and its two neighbours, and moves it a hundredth of the way there.

    Attributes:
        threshold: Probability above which a pixel counts as the object's.
    """

    def __init__(self, threshold: float = 0.4, step: float = 0.025, inertia: float = 0.99) -> None:
        self.threshold, self._step, self._inertia = threshold, step, inertia

    def update(self, logits: Tensor, target: Tensor) -> float:
        """Returns a batch's IoU at the best threshold; (B, 1, H, W) each, targets as in the loss."""
        probability = logits.float().sigmoid()
        offsets = (0.0, -self._step, self._step)
        ious = torch.stack([batch_iou(probability, target, self.threshold + offset) for offset in offsets])
        tried = dict(zip(offsets, ious.tolist(), strict=True))  # at once: on a GPU each would wait for all before it
        best: float = max(tried, key=lambda offset: tried[offset])
        self.threshold += (1 - self._inertia) * best
        return float(tried[best])
