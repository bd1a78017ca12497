"""A network split in two, as modules of plain tensors, for whatever traces or converts them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from icmformer.models.network import ClickNetwork, ImageFeatures


class ImageEncoder(nn.Module):
    """`image` (B, 3, H, W), RGB in [0, 1] -> the features' tensors."""

    def __init__(self, network: ClickNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return self.network.encode_image(image).tensors


class MaskDecoder(nn.Module):
    """`prompt` (B, 3, H, W), see `ClickNetwork.prompt_map`, and the features' tensors -> (B, 1, H, W) logits."""

    def __init__(self, network: ClickNetwork, size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, prompt: Tensor, *features: Tensor) -> Tensor:
        """See the class."""
        return self.network.decode_map(ImageFeatures(self.size, features), prompt)


@dataclass(frozen=True)
class SplitNetwork:
    """Encoder and decoder for one batch and input size, and zeros of the shapes that they take.

    Attributes:
        encoder: From the image to its features.
        image: The encoder's input.
        decoder: From prompt and features to logits.
        prompt: The decoder's inputs: the prompt map, then the features.
    """

    encoder: ImageEncoder
    image: Tensor
    decoder: MaskDecoder
    prompt: tuple[Tensor, ...]


def split(network: ClickNetwork, batch: int, size: tuple[int, int]) -> SplitNetwork:
    """Splits a network, which is on the CPU and in evaluation mode.

    Args:
        network: The network.
        batch: Images at a time: 2 for a profile with the mirror pass.
        size: (H, W) of the input.

    Raises:
        InputSizeError: A size that the network cannot take.
    """
    network.check_size(*size)
    image = torch.zeros(batch, 3, *size)
    encoder, decoder = ImageEncoder(network).eval(), MaskDecoder(network, size).eval()
    with torch.no_grad():
        return SplitNetwork(encoder, image, decoder, (torch.zeros_like(image), *encoder(image)))
