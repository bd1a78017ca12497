"""The normalised focal loss and the adaptive IoU (RITM; the same in SimpleClick and iCMFormer)."""

from __future__ import annotations

from torch import Tensor

IGNORE = -1
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
