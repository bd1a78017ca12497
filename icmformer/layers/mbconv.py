"""Inverted-residual convolutions in the form EfficientNet-Lite has them (Tan and Le, 2019; Lite: ReLU6, no squeeze).

Batch norms are frozen: a channel's scale and shift are parameters of the convolution itself, so that nothing depends
on the batch and inference needs no folding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ScaledConv(nn.Module):
    """A convolution whose output channels have a scale and a shift of their own: a frozen batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.groups = groups
        self.padding = kernel // 2
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel, kernel))
        self.scale = nn.Parameter(torch.ones(out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale[:, None, None, None]
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, groups=self.groups)


class InvertedResidual(nn.Module):
    """Widen (1x1), filter each channel (k x k), narrow (1x1); added to the input where the shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = in_channels * expand
        self.residual = stride == 1 and in_channels == out_channels
        self.expand = ScaledConv(in_channels, hidden, 1) if expand > 1 else None
        self.depthwise = ScaledConv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ScaledConv(hidden, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        out: Tensor = x + y if self.residual else y
        return out


LITE0_STAGES: tuple[tuple[int, int, int, int, int], ...] = (
    (1, 16, 3, 1, 1),
    (2, 24, 3, 2, 6),
    (2, 40, 5, 2, 6),
    (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6),
    (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
)
"""EfficientNet-Lite0: blocks, output channels, kernel, stride of the first block, expansion of each stage."""

LITE0_WIDTHS = (24, 40, 112, 320)
"""Its channels at 1/4, 1/8, 1/16 and 1/32."""


class LiteTrunk(nn.Module):
    """EfficientNet-Lite0 without its classifier: (B, 3, H, W) -> maps at 1/4, 1/8, 1/16 and 1/32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ScaledConv(3, 32, 3, stride=2)
        blocks: list[InvertedResidual] = []
        self.outputs: list[int] = []  # the last block of each resolution from 1/4 on
        channels = 32
        for number, (count, out, kernel, stride, expand) in enumerate(LITE0_STAGES):
            for index in range(count):
                blocks.append(InvertedResidual(channels, out, kernel, stride if index == 0 else 1, expand))
                channels = out
            if number in (1, 2, 4, 6):
                self.outputs.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu6(self.stem(x))
        maps = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.outputs:
                maps.append(x)
        return maps
