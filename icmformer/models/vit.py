"""Plain-ViT networks: iCMFormer (Li, Vosselman, Yang, ICCVW 2023) and SimpleClick (Liu et al., ICCV 2023)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from icmformer.errors import InputSizeError
from icmformer.layers.blocks import Block, CrossBlock, Window
from icmformer.layers.embed import PatchEmbed, resize_position_embedding
from icmformer.layers.windows import plain_vit_window
from icmformer.models.config import ViTConfig
from icmformer.models.head import SegmentationHead, SimplePyramid
from icmformer.models.network import ClickNetwork, ImageFeatures

_EPS = 1e-6


class PlainViT(nn.Module):
    """The shared backbone's parameters: patch and position embedding, blocks and, for iCMFormer, cross blocks."""

    def __init__(self, config: ViTConfig, cross_depth: int) -> None:
        super().__init__()
        dim, heads, ratio = config.embed_dim, config.num_heads, config.mlp_ratio
        side = config.img_size // config.patch_size
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side + 1, dim))
        self.patch_embed = PatchEmbed(config.patch_size, dim)
        if cross_depth:
            self.blocks2 = nn.ModuleList(CrossBlock(dim, heads, ratio, _EPS) for _ in range(cross_depth))
        self.blocks = nn.ModuleList(Block(dim, heads, ratio, _EPS) for _ in range(config.depth))
        if config.published_extras:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
            self.fc_norm = nn.LayerNorm(dim, eps=_EPS)
            self.head = nn.Linear(dim, 1000)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def position(self, rows: int, columns: int) -> Tensor:
        """(1, rows, columns, C): the position embedding for a token grid; the class token's entry is left out."""
        return resize_position_embedding(self.pos_embed[:, 1:], rows, columns)


class _ViTNetwork(ClickNetwork):
    """What both plain-ViT families share: embeddings, block scheduling, neck and head."""

    config: ViTConfig

    def __init__(self, config: ViTConfig, cross_depth: int) -> None:
        super().__init__(config)
        self.patch_embed_coords = PatchEmbed(config.patch_size, config.embed_dim)
        self.backbone = PlainViT(config, cross_depth)
        self.neck = SimplePyramid(config.embed_dim, config.neck_out_dims)
        self.head = SegmentationHead(
            config.neck_out_dims, config.head_channels, config.upsample, config.published_extras
        )

    def check_size(self, height: int, width: int) -> None:
        patch = self.config.patch_size
        for side in (height, width):
            if side % patch:
                raise InputSizeError(f"an input side of {side} pixels is not a multiple of the patch size {patch}")
            plain_vit_window(side // patch, patch)

    def _embed(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, h, w, C) tokens with positions."""
        self.check_size(*image.shape[2:])
        tokens: Tensor = self.backbone.patch_embed(self.normalise(image))
        return tokens + self.backbone.position(*tokens.shape[1:3])

    def _windows(self, tokens: Tensor, first: int, count: int) -> list[Window]:
        """The attention windows of blocks `first` .. `first + count - 1`, counted from 1."""
        rows, columns = tokens.shape[1:3]
        patch = self.config.patch_size
        local = plain_vit_window(rows, patch), plain_vit_window(columns, patch)
        every = self.config.global_every
        return [(rows, columns) if i % every == 0 else local for i in range(first, first + count)]

    def _run(self, x: Tensor, first: int, last: int) -> Tensor:
        """Blocks `first` .. `last`, counted from 1."""
        blocks: Iterable[nn.Module] = list(self.backbone.blocks)[first - 1 : last]
        for block, window in zip(blocks, self._windows(x, first, last - first + 1), strict=True):
            x = block(x, window)
        return x

    def _logits(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        levels = self.neck(x.permute(0, 3, 1, 2).contiguous())  # (B, h, w, C) -> (B, C, h, w)
        logits: Tensor = self.head(levels, size)
        return logits


class ICMFormerViT(_ViTNetwork):
    """iCMFormer on a plain ViT.

    The first half of the blocks runs on the image and on the prompt map with shared weights, the cross blocks update
    the prompt stream from the image stream, and the second half runs on the sum of both.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config, config.cross_depth)

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """Features: the image stream after the first half, then each cross block's keys and values."""
        x = self._run(self._embed(image), 1, self.config.depth // 2)
        keys_values = tuple(block.keys_values(x) for block in self._cross_blocks())
        return ImageFeatures((image.shape[2], image.shape[3]), (x, *keys_values))

    def decode(self, features: ImageFeatures, prev_mask: Tensor, points: Tensor) -> Tensor:
        x, *keys_values = features.tensors
        depth = self.config.depth
        p: Tensor = self.patch_embed_coords(self.prompt_map(prev_mask, points))
        p = self._run(p + self.backbone.position(*p.shape[1:3]), 1, depth // 2)
        windows = self._windows(p, 1, self.config.cross_depth)
        for block, key_value, window in zip(self._cross_blocks(), keys_values, windows, strict=True):
            p = block(p, key_value, window)
        return self._logits(self._run(x + p, depth // 2 + 1, depth), features.size)

    def _cross_blocks(self) -> list[CrossBlock]:
        return [block for block in self.backbone.blocks2 if isinstance(block, CrossBlock)]


class SimpleClickViT(_ViTNetwork):
    """SimpleClick: one stream, the sum of the image's and the prompt map's embeddings."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config, cross_depth=0)

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """Features: the image's embedded patches; the prompt enters before the first block."""
        return ImageFeatures((image.shape[2], image.shape[3]), (self._embed(image),))

    def decode(self, features: ImageFeatures, prev_mask: Tensor, points: Tensor) -> Tensor:
        (x,) = features.tensors
        x = x + self.patch_embed_coords(self.prompt_map(prev_mask, points))
        return self._logits(self._run(x, 1, self.config.depth), features.size)
