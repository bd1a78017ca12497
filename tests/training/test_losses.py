import numpy as np
import torch

from tests.conftest import GOLDEN
from training.losses import normalized_focal_loss

NUMBERS = np.load(GOLDEN / "protocol" / "normalized_focal_loss.npz")


def test_loss_and_gradient_are_the_published_ones():
    logits = torch.tensor(NUMBERS["logits"], requires_grad=True)
    losses = normalized_focal_loss(logits, torch.tensor(NUMBERS["label"]))
    np.testing.assert_allclose(losses.detach().numpy(), NUMBERS["loss"], rtol=0, atol=1e-6)
    losses.mean().backward()
    np.testing.assert_allclose(logits.grad.numpy(), NUMBERS["grad"], rtol=0, atol=1e-8)
