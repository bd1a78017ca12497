"""From tokens to one logit a pixel: the plain ViT's feature pyramid (neck) and the all-MLP-style head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icmformer.models.config import Upsample

_WIDENING = {"x1": 1, "x2": 2, "x4": 4}


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(1, channels, eps=1e-5)


class SimplePyramid(nn.Module):
    """Four levels (1/4, 1/8, 1/16, 1/32) from the one 1/16 map of a plain ViT.

    Input (B, C, h, w); output four maps of `out_dims` channels, finest first.
    """

    def __init__(self, dim: int, out_dims: tuple[int, int, int, int]) -> None:
        super().__init__()
        o4, o8, o16, o32 = out_dims
        wide, middle, deep = max(o4 * 2, dim // 2), max(o8, dim // 2), max(o32, dim * 2)
        self.down_4 = nn.Sequential(
            nn.ConvTranspose2d(dim, wide, 2, stride=2),
            _norm(wide),
            nn.GELU(),
            nn.ConvTranspose2d(wide, wide // 2, 2, stride=2),
            _norm(wide // 2),
            nn.Conv2d(wide // 2, o4, 1),
            _norm(o4),
            nn.GELU(),
        )
        self.down_8 = nn.Sequential(
            nn.ConvTranspose2d(dim, middle, 2, stride=2), _norm(middle), nn.Conv2d(middle, o8, 1), _norm(o8), nn.GELU()
        )
        self.down_16 = nn.Sequential(nn.Conv2d(dim, o16, 1), _norm(o16), nn.GELU())
        self.down_32 = nn.Sequential(
            nn.Conv2d(dim, deep, 2, stride=2), _norm(deep), nn.Conv2d(deep, o32, 1), _norm(o32), nn.GELU()
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.down_4(x), self.down_8(x), self.down_16(x), self.down_32(x)]


class ConvReLU(nn.Module):
    """A 1x1 convolution with ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


def _up_conv(in_channels: int) -> nn.Sequential:
    out = in_channels // 2
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out, 2, stride=2), _norm(out), nn.Conv2d(out, out, 1), _norm(out), nn.GELU()
    )


class SegmentationHead(nn.Module):
    """Fuses the levels at 1/4 and predicts one logit a pixel.

    Args:
        in_dims: Channels of the levels, finest first.
        channels: Width before the logit.
        upsample: `x1`; `x2` and `x4` widen the level and fusion convolutions two- and fourfold and add one or two
            up-convolutions, each of which halves the width and doubles the side.
        published_extras: Create both up-convolutions even where they are not used, as published checkpoints have them.
    """

    def __init__(self, in_dims: tuple[int, ...], channels: int, upsample: Upsample, published_extras: bool) -> None:
        super().__init__()
        self.up_steps = {"x1": 0, "x2": 1, "x4": 2}[upsample]
        width = channels * _WIDENING[upsample]
        self.conv_seg = nn.Conv2d(channels, 1, 1)
        self.convs = nn.ModuleList(ConvReLU(dim, width) for dim in in_dims)
        self.fusion_conv = ConvReLU(width * len(in_dims), width)
        if published_extras or self.up_steps >= 1:
            self.up_conv1 = _up_conv(width)
        if published_extras or self.up_steps >= 2:
            self.up_conv2 = _up_conv(width // 2)
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, levels: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps, finest first, and the wanted (H, W) -> (B, 1, H, W) logits."""
        x = F.relu(self._fused(levels))
        if self.up_steps >= 1:
            x = self.up_conv1(x)
        if self.up_steps >= 2:
            x = self.up_conv2(x)
        logits = self.conv_seg(self.dropout(x))
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)

    def _fused(self, levels: list[Tensor]) -> Tensor:
        """The fusion convolution on the levels side by side, at the finest one's size.

        A 1x1 convolution and a resize may change places: each level's share is computed at its own size.
        """
        kernel, bias = self.fusion_conv.conv.weight, self.fusion_conv.conv.bias
        shares = torch.chunk(kernel, len(levels), dim=1)
        fused = F.conv2d(self.convs[0](levels[0]), shares[0], bias)
        for conv, level, share in zip(list(self.convs)[1:], levels[1:], shares[1:], strict=True):
            coarse = F.conv2d(conv(level), share)
            fused = fused + F.interpolate(coarse, size=fused.shape[2:], mode="bilinear", align_corners=False)
        return fused
