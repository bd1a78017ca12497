"""What every network is to its callers: two seams, `encode_image` and `decode`, and their composition."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from icmformer.layers.clickmap import disk_maps
from icmformer.models.config import NetworkConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageFeatures:
    """All that a network knows of an image before any prompt: what `encode_image` gives and `decode` takes.

    Attributes:
        size: (H, W) of the image in pixels.
        tensors: The network's own tensors, batch first, in its own order.
    """

    size: tuple[int, int]
    tensors: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes held, for bounded caches."""
        return sum(t.numel() * t.element_size() for t in self.tensors)

    def to(self, device: torch.device | str) -> ImageFeatures:
        """The same features on another device."""
        return ImageFeatures(self.size, tuple(t.to(device) for t in self.tensors))


class ClickNetwork(nn.Module):
    """A click-based segmentation network.

    Calling it, or either seam, changes no state of it.
    """

    PIXEL_MEAN = IMAGENET_MEAN
    PIXEL_STD = IMAGENET_STD

    mean: Tensor
    std: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.reset_constants()

    def reset_constants(self) -> None:
        """Sets what is neither learned nor stored; needed after building on torch's meta device."""
        self.register_buffer("mean", torch.tensor(self.PIXEL_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.PIXEL_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor, prev_mask: Tensor, points: Tensor) -> Tensor:
        """The whole network.

        Args:
            image: (B, 3, H, W) float, RGB in [0, 1].
            prev_mask: (B, 1, H, W) float, probabilities of the previous mask, zeros for none.
            points: (B, 2N, 3) float: N positive then N negative clicks as (row, column, order) in pixels of this
                input, absent ones -1.

        Returns:
            (B, 1, H, W) logits.

        Raises:
            InputSizeError: A size that the patches and windows do not allow.
        """
        return self.decode(self.encode_image(image), prev_mask, points)

    @abstractmethod
    def check_size(self, height: int, width: int) -> None:
        """Raises `InputSizeError` if the network cannot take inputs of `height` x `width` pixels."""

    @abstractmethod
    def encode_image(self, image: Tensor) -> ImageFeatures:
        """Everything that depends on the image alone. `image` as in `forward`; the features may be kept and reused."""

    def decode(self, features: ImageFeatures, prev_mask: Tensor, points: Tensor) -> Tensor:
        """The rest: the features of `encode_image` and a prompt, as in `forward`, to (B, 1, H, W) logits."""
        return self.decode_map(features, self.prompt_map(prev_mask, points))

    @abstractmethod
    def decode_map(self, features: ImageFeatures, prompt: Tensor) -> Tensor:
        """As `decode`, from the prompt drawn as a map, (B, 3, H, W): see `prompt_map`."""

    def normalise(self, image: Tensor) -> Tensor:
        """RGB in [0, 1] to about zero mean and unit variance, by the statistics the network was pretrained with."""
        return (image - self.mean) / self.std

    @staticmethod
    def prompt_map(prev_mask: Tensor, points: Tensor) -> Tensor:
        """(B, 3, H, W): previous probabilities, positive disks, negative disks."""
        height, width = prev_mask.shape[2:]
        return torch.cat((prev_mask, disk_maps(points, height, width).to(prev_mask.dtype)), dim=1)
