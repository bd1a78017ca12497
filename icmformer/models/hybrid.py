"""iCMFormer on a convolutional trunk: a hybrid, small and quick on a CPU.

The image's tokens come from an EfficientNet-Lite trunk instead of a patch embedding, so that a pretrained trunk can do
most of the seeing; the cross-modality transformer is iCMFormer's. Fine levels keep the trunk's own maps and see the
prompt again, as in iCMFormer's Swin.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icmformer.errors import InputSizeError
from icmformer.layers.blocks import Block, CrossBlock
from icmformer.layers.embed import PatchEmbed, resize_position_embedding
from icmformer.layers.mbconv import LITE0_WIDTHS, LiteTrunk
from icmformer.models.config import HybridConfig
from icmformer.models.head import SegmentationHead
from icmformer.models.network import ClickNetwork, ImageFeatures

_EPS = 1e-6
_STRIDE = 32  # of the trunk's coarsest map
_PATCH = 16  # pixels a token


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(1, channels, eps=1e-5)


class RefineBlock(nn.Module):
    """x + (3x3 within channels, norm, 1x1 wide, GELU, 1x1 back): a ConvNeXt-like block for the fine levels."""

    def __init__(self, channels: int, kernel: int = 5) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = _norm(channels)
        self.widen = nn.Conv2d(channels, channels * 2, 1)
        self.narrow = nn.Conv2d(channels * 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.narrow(F.gelu(self.widen(self.norm(self.depthwise(x)))))
        return out


class LateralPyramid(nn.Module):
    """Levels 1/4, 1/8 and 1/16 from the fused tokens, top down, with the trunk's maps and the prompt joined in.

    Args:
        dim: Token width, at 1/16.
        out_dims: Channels at 1/4 and 1/8.
    """

    def __init__(self, dim: int, out_dims: tuple[int, int]) -> None:
        super().__init__()
        o4, o8 = out_dims
        self.prompt_4 = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.GELU(), nn.Conv2d(16, o4, 3, stride=2, padding=1)
        )
        self.prompt_8 = nn.Conv2d(o4, o8, 3, stride=2, padding=1)
        self.lateral_4 = nn.Conv2d(LITE0_WIDTHS[0], o4, 1)
        self.lateral_8 = nn.Conv2d(LITE0_WIDTHS[1], o8, 1)
        self.top_8 = nn.Conv2d(dim, o8, 1)
        self.top_4 = nn.Conv2d(o8, o4, 1)
        self.refine_8 = nn.Sequential(RefineBlock(o8), RefineBlock(o8))
        self.refine_4 = nn.Sequential(RefineBlock(o4), RefineBlock(o4))

    def forward(self, y: Tensor, quarter: Tensor, eighth: Tensor, prompt: Tensor) -> list[Tensor]:
        """Y (B, C, h, w), trunk maps at 1/4 and 1/8, prompt map (B, 3, H, W) -> three levels, finest first."""
        p4 = self.prompt_4(prompt)
        p8 = self.prompt_8(F.gelu(p4))
        top = F.interpolate(self.top_8(y), size=eighth.shape[2:], mode="bilinear", align_corners=False)
        x8 = self.refine_8(self.lateral_8(eighth) + p8 + top)
        top = F.interpolate(self.top_4(x8), size=quarter.shape[2:], mode="bilinear", align_corners=False)
        return [self.refine_4(self.lateral_4(quarter) + p4 + top), x8, y]


class HybridBackbone(nn.Module):
    """Trunk, position embedding, blocks and cross blocks."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        dim, heads, ratio = config.embed_dim, config.num_heads, config.mlp_ratio
        side = config.img_size // _PATCH
        self.trunk = LiteTrunk()
        self.embed_16 = nn.Conv2d(LITE0_WIDTHS[2], dim, 1)
        self.embed_32 = nn.Conv2d(LITE0_WIDTHS[3], dim, 1)
        self.norm = nn.LayerNorm(dim, eps=_EPS)
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, ratio, _EPS) for _ in range(config.depth))
        self.blocks2 = nn.ModuleList(CrossBlock(dim, heads, ratio, _EPS) for _ in range(config.cross_depth))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)


class ICMFormerHybrid(ClickNetwork):
    """iCMFormer on a convolutional trunk.

    The first half of the blocks runs, with shared weights, on the image's tokens and on the prompt map's; the cross
    blocks update the prompt stream from the image stream; the second half runs on the sum of both. Attention is global.
    """

    PIXEL_MEAN = (0.498, 0.498, 0.498)  # as the trunk was pretrained: (x - 127) / 128 on values of 0 .. 255
    PIXEL_STD = (0.502, 0.502, 0.502)

    config: HybridConfig

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        self.patch_embed_coords = PatchEmbed(_PATCH, config.embed_dim)
        self.backbone = HybridBackbone(config)
        self.neck = LateralPyramid(config.embed_dim, config.neck_out_dims)
        self.head = SegmentationHead(
            (*config.neck_out_dims, config.embed_dim), config.head_channels, config.upsample, published_extras=False
        )

    def check_size(self, height: int, width: int) -> None:
        if height % _STRIDE or width % _STRIDE or min(height, width) < 2 * _STRIDE:
            raise InputSizeError(
                f"an input of {width} x {height} pixels does not suit this network: sides are multiples of {_STRIDE}, "
                f"{2 * _STRIDE} or more"
            )

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """Features: the trunk's maps at 1/4 and 1/8, the image stream, then each cross block's keys and values."""
        self.check_size(*image.shape[2:])
        quarter, eighth, sixteenth, coarse = self.backbone.trunk(self.normalise(image))
        top = F.interpolate(
            self.backbone.embed_32(coarse), size=sixteenth.shape[2:], mode="bilinear", align_corners=False
        )
        tokens = (self.backbone.embed_16(sixteenth) + top).permute(0, 2, 3, 1)  # (B, C, h, w) -> (B, h, w, C)
        tokens = self.backbone.norm(tokens)
        x = self._run(self._placed(tokens), 0, self.config.depth // 2)
        keys_values = tuple(block.keys_values(x) for block in self._cross_blocks())
        return ImageFeatures((image.shape[2], image.shape[3]), (quarter, eighth, x, *keys_values))

    def decode_map(self, features: ImageFeatures, prompt: Tensor) -> Tensor:
        quarter, eighth, x, *keys_values = features.tensors
        p = self._run(self._placed(self.patch_embed_coords(prompt)), 0, self.config.depth // 2)
        for block, key_value in zip(self._cross_blocks(), keys_values, strict=True):
            p = block(p, key_value, 1)
        y = self._run(x + p, self.config.depth // 2, self.config.depth)
        rows, columns = (side // _PATCH for side in features.size)
        grid = y.transpose(1, 2).reshape(y.shape[0], y.shape[2], rows, columns)  # (B, T, C) -> (B, C, h, w)
        levels = self.neck(grid, quarter, eighth, prompt)
        logits: Tensor = self.head(levels, features.size)
        return logits

    def _placed(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w, C) with their positions, (B, T, C)."""
        return (tokens + resize_position_embedding(self.backbone.pos_embed, *tokens.shape[1:3])).flatten(1, 2)

    def _run(self, x: Tensor, first: int, end: int) -> Tensor:
        for block in list(self.backbone.blocks)[first:end]:
            x = block(x, 1)
        return x

    def _cross_blocks(self) -> list[CrossBlock]:
        return [block for block in self.backbone.blocks2 if isinstance(block, CrossBlock)]
